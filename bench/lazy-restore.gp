# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -c lazy-restore.gp DATA OUTPUT
#
# Each line of DATA has the latency of a page in ms, the time of the load in ns with stock
# and with the series, and the rate of the task that computes with stock and with the
# series.
set terminal svg size 860,540 font 'DejaVu Sans,Helvetica,sans-serif,13' background '#ffffff'
if (ARG2[strlen(ARG2) - 3:] eq '.png') set terminal pngcairo size 860,540 font 'DejaVu Sans,10'
set output ARG2
set encoding utf8

set title "8 tasks of a restored guest read 256 pages that come late\n{/*0.85 arm64, one vCPU, EL2 in an emulated machine; another task computes meanwhile}" enhanced
set xlabel 'latency of a page'
set ylabel 'time until all pages are read, logarithmic'

set logscale xy
set xrange [0.7:140]
set yrange [1e9:1e11]
set xtics nomirror out ('1 ms' 1, '10 ms' 10, '100 ms' 100)
set ytics nomirror out ('1 s' 1e9, '10 s' 1e10, '100 s' 1e11)
set grid ytics lt 1 lc rgb '#dddddd'
set border 3 lc rgb '#888888'
set tics textcolor rgb '#222222'
set key outside right center Left reverse samplen 3 spacing 1.4

red = 0xc0504d
blue = 0x2e75b6
label(ns, rate) = sprintf('%.3g s, %.3g k/s', ns / 1e9, rate / 1e3)

plot ARG1 using 1:2 with linespoints lw 2 pt 7 lc rgb red title 'Linux 6.12', \
	'' using 1:3 with linespoints lw 2 pt 7 lc rgb blue title 'with the series', \
	'' using 1:2:(label($2, $4)) with labels offset -1,1 notitle, \
	'' using 1:3:(label($3, $5)) with labels offset 1,-1 notitle

# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -c lazy-restore.gp DATA OUTPUT
#
# Each line of DATA has the latency of a page in ms, the time of the load in ns with stock
# and with the series, and the time of its task that computes.
set terminal svg size 860,540 font 'DejaVu Sans,Helvetica,sans-serif,13' background '#ffffff'
if (ARG2[strlen(ARG2) - 3:] eq '.png') set terminal pngcairo size 860,540 font 'DejaVu Sans,10'
set output ARG2
set encoding utf8

set title "A restored guest: 8 tasks read 256 pages that come late, and another task computes\n{/*0.85 arm64, one vCPU, EL2 in an emulated machine}" enhanced
set xlabel 'latency of a page'
set ylabel 'time, logarithmic'

set logscale xy
set xrange [0.7:140]
set xtics nomirror out ('1 ms' 1, '10 ms' 10, '100 ms' 100)
set ytics nomirror out ('1 s' 1e9, '10 s' 1e10, '100 s' 1e11)
set grid ytics lt 1 lc rgb '#dddddd'
set border 3 lc rgb '#888888'
set tics textcolor rgb '#222222'
set key outside right center Left reverse samplen 3 spacing 1.4

red = 0xc0504d
blue = 0x2e75b6
label(ns) = sprintf('%.3g s', ns / 1e9)

plot ARG1 using 1:2 with linespoints lw 2 pt 7 lc rgb red title 'all tasks, Linux 6.12', \
	'' using 1:4 with linespoints lw 2 pt 5 dt 2 lc rgb red title 'the one that computes', \
	'' using 1:3 with linespoints lw 2 pt 7 lc rgb blue title 'all tasks, with the series', \
	'' using 1:5 with linespoints lw 2 pt 5 dt 2 lc rgb blue title 'the one that computes', \
	for [i = 2:3] '' using 1:i:(label(column(i))) with labels offset 0,i == 3 ? -0.9 : 0.8 notitle

# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -c dirty-log.gp DATA OUTPUT
#
# Each line of DATA has the MiB cleared and the stall in ns: on arm64 with stock and
# with the series, then the same on x86.
set terminal svg size 860,540 font 'DejaVu Sans,Helvetica,sans-serif,13' background '#ffffff'
if (ARG2[strlen(ARG2) - 3:] eq '.png') set terminal pngcairo size 860,540 font 'DejaVu Sans,10'
set output ARG2
set encoding utf8

set title "A write of a vCPU while another thread clears the dirty log\n{/*0.85 99 % of the writes take less; two CPUs, nested SVM and EL2 in emulated machines}" enhanced
set xlabel 'memory whose log is cleared'
set ylabel 'time of a write, logarithmic'

set logscale xy
set xrange [48:1400]
set yrange [1e4:1e9]
set xtics nomirror out ('64 MiB' 64, '256 MiB' 256, '1 GiB' 1024)
set ytics nomirror out ('10 µs' 1e4, '100 µs' 1e5, '1 ms' 1e6, '10 ms' 1e7, '100 ms' 1e8, '1 s' 1e9)
set grid ytics lt 1 lc rgb '#dddddd'
set border 3 lc rgb '#888888'
set tics textcolor rgb '#222222'
set key outside right center Left reverse samplen 3 spacing 1.4

red = 0xc0504d
blue = 0x2e75b6
label(ns) = ns < 1e6 ? sprintf('%.3g µs', ns / 1e3) : ns < 1e9 ? sprintf('%.3g ms', ns / 1e6) : \
	sprintf('%.3g s', ns / 1e9)

plot ARG1 using 1:2 with linespoints lw 2 pt 7 lc rgb red title 'arm64, Linux 6.12', \
	'' using 1:4 with linespoints lw 2 pt 5 dt 2 lc rgb red title 'x86, Linux 6.12', \
	'' using 1:3 with linespoints lw 2 pt 7 lc rgb blue title 'arm64, with the series', \
	'' using 1:5 with linespoints lw 2 pt 5 dt 2 lc rgb blue title 'x86, with the series', \
	for [i = 2:5] '' using 1:i:(label(column(i))) with labels offset 0,i == 5 ? -0.9 : 0.8 notitle

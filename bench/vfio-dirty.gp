# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -c vfio-dirty.gp DATA OUTPUT
#
# Each line of DATA has a number of dirty pages, and the instructions of four ways to find
# them: a bitmap for each mapping, the same with the fixes, one bitmap, and runs.
set terminal svg size 860,540 font 'DejaVu Sans,Helvetica,sans-serif,13' background '#ffffff'
if (ARG2[strlen(ARG2) - 3:] eq '.png') set terminal pngcairo size 860,540 font 'DejaVu Sans,10'
set output ARG2
set encoding utf8

set title "Finding the dirty pages of a VFIO container: 39 bits of IOVA, 10,000 mappings\n{/*0.85 x86, instructions counted in an emulated machine}" enhanced
set xlabel 'dirty pages'
set ylabel 'instructions, logarithmic'

set logscale xy
set xrange [0.6:20000]
set yrange [1e3:1e10]
set xtics nomirror out ('1' 1, '100' 100, '10,000' 10000)
set ytics nomirror out ('1 K' 1e3, '10 K' 1e4, '100 K' 1e5, '1 M' 1e6, '10 M' 1e7, '100 M' 1e8, '1 G' 1e9, '10 G' 1e10)
set grid ytics lt 1 lc rgb '#dddddd'
set border 3 lc rgb '#888888'
set tics textcolor rgb '#222222'
set key outside right center Left reverse samplen 3 spacing 1.4

red = 0xc0504d
blue = 0x2e75b6
label(n) = n < 1e6 ? sprintf('%.3g K', n / 1e3) : n < 1e9 ? sprintf('%.3g M', n / 1e6) : sprintf('%.3g G', n / 1e9)

plot ARG1 using 1:2 with linespoints lw 2 pt 7 lc rgb red title 'a bitmap for each mapping, Linux 6.12', \
	'' using 1:3 with linespoints lw 2 pt 5 dt 2 lc rgb red title 'the same, with the fixes', \
	'' using 1:4 with linespoints lw 2 pt 9 lc rgb red title 'one bitmap, Linux 6.12', \
	'' using 1:5 with linespoints lw 2 pt 7 lc rgb blue title 'runs, with the series', \
	for [i in "2 5"] '' using 1:(column(int(i))):(label(column(int(i)))) with labels offset 0,0.9 notitle

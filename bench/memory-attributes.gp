# SPDX-License-Identifier: GPL-2.0
#
# gnuplot -c memory-attributes.gp DATA OUTPUT
#
# Each line of DATA gives a pair of bars: label of the pair, ns and label of stock, ns
# and label with the series.
set terminal svg size 1040,660 font 'DejaVu Sans,Helvetica,sans-serif,13' background '#ffffff'
if (ARG2[strlen(ARG2) - 3:] eq '.png') set terminal pngcairo size 1040,660 font 'DejaVu Sans,10'
set output ARG2
set encoding utf8
set datafile separator tab

set title "KVM memory attributes: time of a call\n{/*0.85 x86, nested SVM in an emulated machine; compare the bars, not with hardware}" enhanced
set xlabel "time, logarithmic\n{/*0.85 * instructions, each counted as 1 ns}" enhanced

set logscale x
set xrange [1e3:3e16]
set xtics nomirror out ('1 µs' 1e3, '100 µs' 1e5, '10 ms' 1e7, '1 s' 1e9, '1 min' 6e10, '1 h' 3.6e12)
set ytics nomirror scale 0
stats ARG1 using 0 nooutput
set yrange [STATS_records - 0.4:-0.6]
set ylabel 'conversion, or other call'
set grid xtics lt 1 lc rgb '#dddddd' back
set border 3 lc rgb '#888888'
set tics textcolor rgb '#222222'
set key at graph 0.98, graph 0.04 right bottom Left reverse samplen 2 opaque box lc rgb '#dddddd'
set style fill solid noborder

plot ARG1 using 2:0:(1e3):2:($0 - 0.36):($0 - 0.02):ytic(1) with boxxyerror \
		lc rgb '#c0504d' title 'Linux 6.12', \
	'' using 4:0:(1e3):4:($0 + 0.02):($0 + 0.36) with boxxyerror \
		lc rgb '#2e75b6' title 'with the series', \
	'' using 2:($0 - 0.19):3 with labels left offset 0.5,0 noenhanced notitle, \
	'' using 4:($0 + 0.19):5 with labels left offset 0.5,0 noenhanced notitle

# SPDX-License-Identifier: GPL-2.0
"""The data of the charts.  gnuplot draws them with the scripts beside this file."""
from figures import LATENCIES, NUMBERS, SIZES, human, stock_value

# Machine, figure and label of each bar, in the order of the chart.
BARS = [
    ('x86-svm', 'to_private_64g', '64 GiB to private, never mapped'),
    ('x86-svm', 'to_shared_64g', '64 GiB to shared, never mapped'),
    ('x86-svm', 'to_private_1t', '1 TiB to private, never mapped'),
    ('x86-svm', 'to_private_16t', '16 TiB to private, never mapped'),
    ('x86-svm', 'mapped_to_private_512m', '512 MiB to private, mapped by the guest'),
    ('x86-svm', 'mapped_to_shared_512m', '512 MiB to shared, mapped by the guest'),
    ('x86-svm-icount', 'convert_2m', '2 MiB there or back, never mapped *'),
    ('x86-svm-icount', 'fragment_1g', 'every other page of 1 GiB, never mapped *'),
    ('x86-svm-icount', 'reunite_1g', 'the same back to shared *'),
    ('x86-svm-icount', 'memslot_1t', 'creating a memslot of 1 TiB *'),
]


def bars(stock, ours):
    """memory-attributes.dat: label of the bars, ns and label of stock, ns and label of
    ours."""
    for machine, name, what in BARS:
        value, guess = stock_value(stock, machine, name)
        mine = ours[machine, name]
        label = human(value, 'ns') + (' (extrapolated)' if guess else '')
        yield f'"{what}"\t{value}\t"{label}"\t{mine}\t"{human(mine, "ns")}"\n'


def stalls(stock, ours):
    """dirty-log.dat: MiB, ns of stock and of ours on arm64, then the same on x86."""
    for mib in SIZES:
        values = [figures[machine, f'stall_p99_{mib}m']
                  for machine in ('arm64-vhe', 'x86-svm-smp') for figures in (stock, ours)]
        yield '\t'.join(map(str, [mib, *values])) + '\n'


def restores(stock, ours):
    """lazy-restore.dat: ms, ns of stock and of ours until all is done, ns until the task that
    computes is done."""
    for ms in LATENCIES:
        values = [figures['arm64-vhe', f'lazy_{what}_{ms}']
                  for what in ('load', 'compute') for figures in (stock, ours)]
        yield '\t'.join(map(str, [ms, *values])) + '\n'


def queries(stock, ours):
    """vfio-dirty.dat: number of dirty pages, and instructions of a query of 10,000 mappings:
    of stock, with a bitmap for each, the same with the fixes, with one bitmap, and as runs."""
    for d in NUMBERS:
        values = [figures['x86-vfio-icount', f'{what}_10000_{d}'] for figures, what in (
            (stock, 'dirty_loop'), (stock, 'fixed_loop'), (stock, 'dirty_bitmap'), (ours, 'dirty_query'))]
        yield '\t'.join(map(str, [d, *values])) + '\n'


CHARTS = {'memory-attributes': bars, 'dirty-log': stalls, 'lazy-restore': restores,
          'vfio-dirty': queries}

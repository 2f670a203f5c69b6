# SPDX-License-Identifier: GPL-2.0
"""The figures of bench/run, their limits, and the table."""
from collections import namedtuple

# One figure of a selftest: its name there, a description, its unit, and the limit for a
# counted figure: (kind, limit).  The limit of kind "like" is a factor, the name of
# another figure, and a short name for that.  A busy host changes times, so times have no
# limit.
Figure = namedtuple('Figure', 'name what unit wanted', defaults=[None])
# The figures of one machine of lab/rows.
Section = namedtuple('Section', 'machine title figures')
# One line of the table; a guess is extrapolated from a smaller range.
Line = namedtuple('Line', 'machine figure stock guess ours verdict')

SIZES = (64, 256, 1024)     # MiB that are cleared while a vCPU writes
LATENCIES = (1, 10, 100)    # ms that a page of a restored VM takes
GUESSES = {'to_private_1t': 16, 'to_private_16t': 256}      # times 64 GiB

SAME_COST = ('ratio', 0.98)
CACHES = (96, 1536, 5121)
NUMBERS = (1, 100, 10000)   # mappings of a container, and dirty pages
LIKE_NO_CACHE = ('like', (1.3, 'drop_miss_0', 'no cache'))


def conversions(unit, whole=None, like=None, ratio_2m=None, ratio_page=None):
    return [
        Figure('to_private_1g', '1 GiB to private, never mapped', unit),
        Figure('to_private_16g', '16 GiB to private, never mapped', unit),
        Figure('to_private_64g', '64 GiB to private, never mapped', unit, whole),
        Figure('to_shared_64g', '64 GiB to shared, never mapped', unit, whole),
        Figure('to_private_1t', '1 TiB to private, never mapped', unit, like),
        Figure('to_private_16t', '16 TiB to private, never mapped', unit, like),
        Figure('mapped_to_private_512m', '512 MiB to private, mapped', unit),
        Figure('mapped_to_shared_512m', '512 MiB to shared, mapped', unit),
        Figure('convert_2m', '2 MiB there or back, never mapped', unit, ratio_2m),
        Figure('fragment_1g', 'every other page of 1 GiB, never mapped', unit, ratio_page),
        Figure('reunite_1g', 'the same back to shared, per call', unit),
        Figure('memslot_1t', 'creating a memslot of 1 TiB', unit)]


def waits():
    return [
        Figure('slots_set_call', '8000 memslots of a page to private', 'ns'),
        Figure('slots_set_wait', '  longest madvise() of another thread', 'ns'),
        Figure('slots_list_call', 'the same 511 times, in a list (stock: calls)', 'ns'),
        Figure('slots_list_wait', '  longest madvise() of another thread', 'ns')]


def faults(private_wanted=SAME_COST):
    return [
        Figure('fault_plain', 'a fault in a VM without private memory', 'instructions', SAME_COST),
        Figure('fault_plain_2m', 'the same, 2 MiB', 'instructions', SAME_COST),
        Figure('fault_private', 'a fault on a private page', 'instructions', private_wanted),
        Figure('fault_shared', 'a fault on a shared page', 'instructions', private_wanted),
        Figure('fault_shared_2m', 'the same, 2 MiB', 'instructions', private_wanted)]


def drops():
    return [
        Figure('drop_plain_256m', 'the host drops 256 MiB that a guest has mapped', 'instructions'),
        Figure('drop_mixed_256m', 'the same, every other page private', 'instructions')]


def caches():
    return [
        Figure('drop_miss_0', 'the host drops a page, no pfn caches', 'instructions'),
        *(Figure(f'drop_miss_{n}', f'  {n} pfn caches of other pages', 'instructions', LIKE_NO_CACHE)
          for n in CACHES),
        *(Figure(f'drop_hit_{n}', f'  {n} pfn caches, one of them of the page', 'instructions', LIKE_NO_CACHE)
          for n in CACHES)]


def round_trips(*names):
    names = ('plain', 'L2 to L1 and back', 1), *((name, f'  {what}', limit) for name, what, limit in names)
    return [
        Figure('nested_exit', 'an exit to KVM and back, without L2', 'ticks', ('ratio', 0.998)),
        *(Figure(f'nested_{name}', what, 'ticks', ('ratio', limit)) for name, what, limit in names),
        *(Figure(f'devmem_{name}', f'{what}, no struct page', 'ticks', ('like', (1.01, f'nested_{name}', 'with one')))
          for name, what, _ in names)]


def async_faults():
    return [
        Figure('apf_fault_off', 'a fault at EL0, async page faults off', 'instructions', SAME_COST),
        Figure('apf_fault_on', '  turned on', 'instructions', ('like', (1.005, 'apf_fault_off', 'off')))]


def restores():
    return [figure for ms in LATENCIES for figure in (
        Figure(f'lazy_load_{ms}', f'8 tasks read, one computes, pages {ms} ms late', 'ns'),
        Figure(f'lazy_compute_{ms}', '  the one that computes', 'ns'),
        Figure(f'lazy_interrupts_{ms}', '  interrupts for pages that are ready', 'percent', ('most', 99)))] + [
        Figure('lazy_load_first', "the first load, with the kernel's pages, 10 ms", 'ns'),
        Figure('lazy_compute_first', '  the one that computes', 'ns'),
        Figure('lazy_load_postcopy', '  and 1000 pages a second come unasked', 'ns'),
        Figure('lazy_compute_postcopy', '  the one that computes', 'ns')]


def stalls():
    return [figure for mib in SIZES for figure in (
        Figure(f'stall_p99_{mib}m', f'a write while {mib} MiB are cleared, p99', 'ns'),
        Figure(f'stall_max_{mib}m', '  the longest', 'ns'),
        Figure(f'quiet_max_{mib}m', '  the longest with nothing cleared', 'ns'),
        Figure(f'writes_{mib}m', '  writes of the guest', 'a_second'),
        Figure(f'unmap_p99_{mib}m', '  the same, while a thread unmaps a page, p99', 'ns'),
        Figure(f'unmap_max_{mib}m', '  the longest', 'ns'),
        Figure(f'unmap_call_{mib}m', "  the thread's longest madvise()", 'ns'),
        Figure(f'start_max_{mib}m', '  the longest write while logging starts', 'ns'),
        Figure(f'stop_max_{mib}m', '  the longest write while logging stops', 'ns'))]


def clears():
    return [
        Figure('clear_all', 'clear all pages, per page', 'instructions', ('ratio', 1)),
        Figure('clear_half', 'clear every other page, per page', 'instructions', ('ratio', 1)),
        Figure('clear_sparse', 'clear one page in 64, per page', 'instructions', ('ratio', 1)),
        Figure('faults_half', 'faults, every other page cleared', 'percent', ('most', 101)),
        Figure('start', 'start logging 64 MiB', 'instructions'),
        Figure('start_set', '  with KVM_DIRTY_LOG_INITIALLY_SET', 'instructions'),
        Figure('stop', 'stop logging 64 MiB', 'instructions')]


def dirty_queries():
    return [figure for m in NUMBERS for figure in (
        *(Figure(f'dirty_query_{m}_{d}', f'{d} dirty pages, {m} mappings (stock: the best way)',
                 'instructions', ('ratio', 10) if d <= 100 else None) for d in NUMBERS),
        Figure(f'dirty_loop_{m}_100', '  100, a bitmap for each mapping', 'instructions'),
        Figure(f'dirty_bitmap_{m}_100', '  100, one bitmap', 'instructions'),
        Figure(f'dirty_start_{m}', f'begin to track, {m} mappings', 'instructions'))] + [
        Figure('dirty_pin', 'pin and unpin a page while tracking', 'instructions', ('ratio', 0.95))]


def rounds():
    return [figure for writer, pages in (('seq', 'all pages in order'), ('random', 'any 1/16 of them'))
            for how, what in (('fault', 'faults'), ('hw', 'hardware')) for figure in (
                Figure(f'{writer}_write_{how}', f'{pages}, {what}: a write', 'instructions'),
                Figure(f'{writer}_get_{how}', '  get the log of 64 MiB', 'instructions'),
                Figure(f'{writer}_clear_{how}', '  clear it, per page', 'instructions'))]


def quiet_clears():
    return [Figure('perf_clear', 'dirty_log_perf_test, clear 256 MiB', 'ns'),
            Figure('perf_dirty', '  dirty 256 MiB', 'ns')]


FULL = [
    Section('x86-svm', 'x86, time', conversions('ns') + waits() + quiet_clears()),
    Section('x86-svm-icount', 'x86, kernel memory', [
        Figure('kept_64g', 'kept for 64 GiB', 'bytes', ('most', 16384)),
        Figure('kept_fragmented_1g', 'kept for every other page of 1 GiB', 'bytes', ('ratio', 10))]),
    Section('x86-svm-icount', 'x86, instructions',
            conversions('instructions', ('ratio', 10000), ('like', (2, 'to_private_64g', '64 GiB')), ('ratio', 20), ('ratio', 1)) +
            faults() + drops() + clears() + caches()),
    Section('x86-svm-icount', 'nested SVM, TSC ticks (instructions)',
            round_trips(('msr', 'with an MSR permission map', 1.11))),
    Section('x86-vmx', 'nested VMX, TSC ticks (about one an instruction)',
            round_trips(('msr', 'with an MSR bitmap', 1), ('apic', "with L1's APIC pages", 1), ('all', 'with both', 1.11))),
    Section('x86-vfio-icount', 'dirty pages of VFIO devices, 39 bits of IOVA, instructions', dirty_queries()),
    Section('x86-svm-smp', 'x86, stalls with two CPUs', stalls()),
    Section('arm64-icount', 'arm64, instructions',
            conversions('instructions') + faults(None) + async_faults() + drops() + clears() + rounds() +
            [Figure('kept_fragmented_1g', 'kept for every other page of 1 GiB', 'bytes'),
             Figure('lazy_work_present', 'a guest reads pages that are there', 'ns', ('ratio', 0.995))]),
    Section('arm64-icount-n1', 'arm64 without TLBI of ranges, instructions', drops()),
    Section('arm64-vhe', 'arm64, time and stalls with two CPUs', stalls() + quiet_clears() +
            [Figure('apf_exits', 'an asynchronous page fault', 'exits', ('most', 2))] + restores()),
]

DEMO = [
    Section('x86-svm-icount', 'Counted in a machine with one CPU', [
        Figure('to_private_16g', 'make 16 GiB private, never mapped', 'instructions'),
        Figure('to_shared_16g', 'make it shared again', 'instructions'),
        Figure('mapped_to_private_512m', 'make 512 MiB private, all mapped', 'instructions'),
        Figure('mapped_to_shared_512m', 'make it shared again, all mapped', 'instructions'),
        Figure('memslot_1t', 'create a memslot of 1 TiB', 'instructions'),
        Figure('kept_fragmented_1g', 'kept for 1 GiB, every other page private', 'bytes'),
        Figure('clear_all', 'clear the dirty log, per page', 'instructions'),
        Figure('clear_sparse', 'the same, one page in 64 dirty', 'instructions'),
        Figure('drop_miss_5121', 'drop a page of a VM with 5121 pfn caches', 'instructions'),
        Figure('nested_msr', 'a nested guest exits to L1 and goes on', 'ticks')]),
    Section('x86-vfio-icount', 'The same, of a VFIO container with 512 GiB of IOVA, in 100 mappings', [
        Figure('dirty_start_100', 'begin to track dirty pages', 'instructions'),
        Figure('dirty_query_100_100', 'find 100 dirty pages (stock: the best way)', 'instructions')]),
    Section('x86-svm-smp', 'Timed with two CPUs: a busy host changes these', [
        Figure('stall_p99_512m', 'slowest 1 % of writes during a clear', 'ns'),
        Figure('writes_512m', 'writes of a vCPU (more is better)', 'a_second')]),
]

DEMO_ARM64 = [
    Section('arm64-vhe', 'A guest of arm64 is restored, and its pages take 10 ms each', [
        Figure('lazy_load_10', '8 tasks read 256 pages, and one computes', 'ns'),
        Figure('lazy_compute_10', '  the one that computes', 'ns')]),
]


def scaled(value, steps):
    for size, name in steps:
        if abs(value) >= size:
            return f'{value / size:.3g} {name}'
    return f'{value:,} {steps[-1][1]}'


TIMES = [(3600e9, 'h'), (60e9, 'min'), (1e9, 's'), (1e6, 'ms'), (1e3, 'µs'), (1, 'ns')]
BYTES = [(1 << 30, 'GiB'), (1 << 20, 'MiB'), (1 << 10, 'KiB'), (1, 'B')]


def human(value, unit):
    if value is None:
        return '-'
    if unit == 'ns':
        return scaled(value, TIMES)
    if unit == 'bytes':
        return scaled(value, BYTES)
    if unit == 'instructions':
        return f'{value:,} instr.' if value < 1e6 else scaled(value, [(1e12, 'T instr.'), (1e9, 'G instr.'), (1e6, 'M instr.')])
    return f'{value:,} ' + {'percent': '%', 'a_second': '/s', 'ticks': 'ticks', 'exits': 'exits'}[unit]


def ratio(stock, ours, unit):
    """How many times better ours is: less, or more of what is counted a second."""
    if not stock or ours <= 0:
        return '-'
    value = float(f'{ours / stock if unit == "a_second" else stock / ours:.3g}')
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def verdict(figure, machine, stock, ours):
    """The limit of a counted figure, and whether the figure meets it; '' without a limit."""
    kind, limit = figure.wanted or ('', 0)
    value = ours[machine, figure.name]
    if kind == 'most':
        text, good = f'<= {human(limit, figure.unit)}', value <= limit
    elif kind == 'like' and (machine, limit[1]) in ours:
        factor, name, label = limit
        text, good = f'<= {factor} x {label}', value <= factor * ours[machine, name]
    elif kind == 'ratio' and (machine, figure.name) in stock:
        text, good = f'ratio >= {limit:,}', stock[machine, figure.name] >= limit * max(value, 1)
    else:
        return ''
    return f'{text} {"yes" if good else "NO"}'


def stock_value(stock, machine, name):
    """(value, guess) of stock.  If the range is too large for stock, the value for 64 GiB
    is scaled up: the time grows with the size."""
    if (machine, name) in stock:
        return stock[machine, name], False
    if name in GUESSES and (machine, 'to_private_64g') in stock:
        return stock[machine, 'to_private_64g'] * GUESSES[name], True
    return None, False


def lines(section, stock, ours):
    """A Line for each figure of @section that was measured."""
    for figure in section.figures:
        if (section.machine, figure.name) in ours:
            yield Line(section.machine, figure, *stock_value(stock, section.machine, figure.name),
                       ours[section.machine, figure.name],
                       verdict(figure, section.machine, stock, ours))


def table_line(line):
    unit = line.figure.unit
    left = human(line.stock, unit)
    left = f'({left})' if line.guess else left
    text = f'{line.figure.what:42} {left:>16} {human(line.ours, unit):>16} {ratio(line.stock, line.ours, unit):>10}'
    return f'{text}  {line.verdict}'.rstrip()


def table(sections, stock, ours, left='stock'):
    text = [f'{"":42} {left:>16} {"with the series":>16} {"ratio":>10}']
    guessed = False
    for section in sections:
        shown = list(lines(section, stock, ours))
        if not shown:
            continue
        guessed |= any(line.guess for line in shown)
        text += [f'{section.title}:'] + [table_line(line) for line in shown]
    if guessed:
        text.append('(in parentheses: extrapolated from 64 GiB)')
    return '\n'.join(text) + '\n'

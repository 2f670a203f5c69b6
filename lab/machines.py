# SPDX-License-Identifier: GPL-2.0
"""The machines of lab/rows, for lab/run and lab/test."""
import argparse
import os
import re
import subprocess

LAB = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(LAB)
BUILD = os.path.join(ROOT, 'build', 'lab')


class Row:
    def __init__(self, columns):
        (self.name, self.emulator, self.flags, self.kernel, self.kvm,
         tests, self.boot, self.limit, self.gives) = columns
        # The list in lab/lists, and the row's name there.
        self.tests = None if tests == '-' else tests.split()
        self.boot, self.limit = int(self.boot), int(self.limit)
        self.arch = 'arm64' if self.emulator == 'qemu-aarch64' else 'x86_64'
        self.image = self.kernel.split()[0] == 'image'

    def emulator_version(self):
        """The emulator's version, MAJOR.MINOR, from its own output; '' if unknown."""
        command = (['bochs', '--help'] if self.emulator == 'bochs' else
                   [f"qemu-system-{self.emulator.split('-', 1)[1]}", '--version'])
        try:
            said = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, errors='replace').stdout
        except OSError:
            said = ''
        found = re.search(r'[Ee]mulator (?:version )?([0-9]+\.[0-9]+)', said)
        return found[1] if found else ''


def table(path):
    """The lines of a file that are not comments, as (number, text)."""
    with open(path) as f:
        lines = [(n, line.strip()) for n, line in enumerate(f, 1)]
    return [(n, line) for n, line in lines if line and not line.startswith('#')]


def read_rows():
    """{name: Row}"""
    rows = {}
    for number, line in table(os.path.join(LAB, 'rows')):
        try:
            row = Row([column.strip() for column in line.split('|')])
        except ValueError:
            raise argparse.ArgumentTypeError(f"lab/rows:{number} is not a row of nine columns")
        rows[row.name] = row
    return rows


def row_called(name):
    """The argparse type of ROW."""
    rows = read_rows()
    if name not in rows:
        raise argparse.ArgumentTypeError(f"no row {name}: the rows are {', '.join(rows)}")
    return rows[name]


def parser(program, usage, text):
    """A parser whose -h prints usage and text; the text after "--" comes last."""
    summary, _, epilog = text.partition('\n--\n')
    return argparse.ArgumentParser(
        prog=program, usage=usage, description=summary, epilog=epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)

# SPDX-License-Identifier: GPL-2.0
"""The series as commits: code that scripts/assemble and scripts/refresh share.

patches/series lists the patches in order, each as TOPIC/NAME.patch below
patches/. A patch is a mail with a diff. Diffs do not contain new kernel files:
the patch that adds such a file names it in an "Overlay:" line, and the
repository keeps the file at its kernel path, in the state that it has at the
end of the series. Later patches edit such a file with ordinary hunks. To find
its first state, first_states() takes those hunks off again, from the last patch
to the first.

A commit holds a patch with its new files. These rules make commits and patches
equivalent, and are checked in both directions:

 - a commit adds exactly the files that its patch claims;
 - no commit removes a file that an earlier one adds;
 - the last commit has the new files as they are in the repository;
 - author, date and message come from the mail, and the committer is the author.

The last rule makes the commits a function of Linux and the repository's files.
So does the root commit of Linux: it is made here, wherever the tree came from.
Hence equal hashes mean equal sources, everywhere.

Diffs in patches/ have no "index" lines, and their line numbers may be off, as
git apply allows. A change to one patch therefore leaves the other patch files
alone.
"""

import argparse
import dataclasses
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'kvm-mem'
PACKAGE = 'linux-source-6.12'

BRANCH = 'kvm-mem'
# The repository keeps new kernel files below these, each at its kernel path ...
NEW_DIRS = ('arch', 'virt', 'drivers', 'include', 'Documentation', 'tools', 'samples')
# ... except these (kernel path: path here).
MOVED = {'virt/kvm/Kconfig.mem': 'Kconfig'}

SERIES_LINE = re.compile(r'([a-z0-9][a-z0-9-]*)/([^/\s]+\.patch)')
ZERO = '0' * 40


class Fail(Exception):
    """What is wrong, and what to do about it."""


def run_main(main):
    """Run main(). On Fail, exit like die() in scripts/lib.sh."""
    try:
        main()
    except Fail as error:
        progress_end()
        sys.exit(f'{Path(sys.argv[0]).name}: {error}')
    except KeyboardInterrupt:
        progress_end()
        sys.exit(130)


def arguments(doc, *switches, **options):
    """Parse the command line: DIR, switches, and options with a value of the given
    type. -h prints doc."""
    parser = argparse.ArgumentParser()
    parser.format_help = lambda: f'{doc}\n'
    parser.format_usage = lambda: f'{doc.splitlines()[0]}\n'
    parser.add_argument('dir', nargs='?', default=ROOT / 'build/linux', type=Path)
    for name in switches:
        parser.add_argument(f'--{name}', action='store_true')
    for name, kind in options.items():
        parser.add_argument(f'--{name}', type=kind)
    return parser.parse_args()


def on_terminal():
    return sys.stderr.isatty() and os.environ.get('TERM', 'dumb') != 'dumb'


def progress(text):
    if on_terminal():
        width = shutil.get_terminal_size().columns - 1
        print(f'\r\033[K{text[:width]}', end='', file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def progress_end():
    if on_terminal():
        print('\r\033[K', end='', file=sys.stderr, flush=True)


# git ------------------------------------------------------------------------

class Git:
    """git in one repository, regardless of the user's configuration.

    With own=True the repository is the user's, and the user's configuration
    applies (safe.directory, above all)."""

    def __init__(self, directory, own=False, env=None):
        self.directory = Path(directory)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith('GIT_')}
        self.env['LC_ALL'] = 'C'
        if not own:
            self.env.update(GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM='1')
        self.env.update(env or {})

    def run(self, *args, stdin=None, env=None, check=True):
        """Run git; return the finished process, with its output in bytes."""
        done = subprocess.run(
            ['git', '-C', self.directory, *args], input=stdin, check=False,
            env=self.env | (env or {}), capture_output=True)
        if check and done.returncode:
            raise Fail(f'git {args[0]} in {self.directory} failed:\n'
                       + done.stderr.decode(errors='replace').rstrip())
        return done

    def __call__(self, *args, **kwargs):
        """Run git; return its standard output, stripped."""
        return self.run(*args, **kwargs).stdout.decode(errors='surrogateescape').strip()

    def succeeds(self, *args):
        return self.run(*args, check=False).returncode == 0

    def commit_of(self, name):
        """The commit of that name, or ''."""
        return self('rev-parse', '-q', '--verify', f'{name}^{{commit}}', check=False)

    def path(self, name):
        """The file of that name in the git directory."""
        return self.directory / self('rev-parse', '--git-path', name)

    def names(self, *args, **kwargs):
        """Run git; return the list of NUL-terminated names that it prints."""
        out = self.run(*args, **kwargs).stdout.decode(errors='surrogateescape')
        return [name for name in out.split('\0') if name]

    def changes(self, old, new):
        """The changes from old to new: {path: 'A', 'M', 'D' or 'T'}."""
        fields = self.names('diff-tree', '-r', '-z', '--no-renames', '--name-status', old, new)
        return dict(zip(fields[1::2], fields[::2]))


def identity(name, email, date):
    return {f'GIT_{who}_{what}': value for who in ('AUTHOR', 'COMMITTER')
            for what, value in (('NAME', name), ('EMAIL', email), ('DATE', date))}


def commit_linux(git, tree, version):
    """Make the root commit: the same one for the same tree, wherever it came from."""
    return git('commit-tree', tree, stdin=f'Linux {version}\n'.encode(),
               env=identity('kvm-mem', 'kvm-mem@localhost', '@0 +0000'))


# Linux ----------------------------------------------------------------------

@dataclasses.dataclass
class Linux:
    version: str
    tree: str       # the tree object
    objects: Path   # the object store that holds it


def base_version(root=ROOT):
    return (root / 'BASE').read_text().strip()


def version_of(makefile, where):
    value = dict(re.findall(r'^(VERSION|PATCHLEVEL|SUBLEVEL) *= *(\d+)$', makefile, re.M))
    if len(value) != 3:
        raise Fail(f'{where} is not a Linux tree: its Makefile has no version')
    return '{VERSION}.{PATCHLEVEL}.{SUBLEVEL}'.format(**value)


def usable(version, base):
    """Is version base, or a later one of the same stable series?"""
    have, want = ([int(n) for n in v.split('.')] for v in (version, base))
    return have[:2] == want[:2] and have[2] >= want[2]


def refuse(where, version, base):
    series = base.rsplit('.', 1)[0]
    raise Fail(f'{where} is Linux {version}, and the series is against {base}:\n'
               f'use {base} or a later {series}.N')


def find_linux(base):
    """Linux from the tree KSRC, or from the archive's sources. KSRC may be a
    version; otherwise it is base, or a later version if the archive dropped base."""
    ksrc = os.environ.get('KSRC')
    if not ksrc:
        return from_package(base)
    if re.fullmatch(r'\d+\.\d+\.\d+', ksrc):
        return from_package(ksrc, exactly=True)
    return from_ksrc(Path(ksrc), base)


def from_ksrc(ksrc, base):
    ksrc = ksrc.resolve()
    if not (ksrc / 'Makefile').is_file():
        raise Fail(f'KSRC={ksrc} is not a Linux tree: it has no Makefile')
    version = version_of((ksrc / 'Makefile').read_text(), f'KSRC={ksrc}')
    if not usable(version, base):
        refuse(f'KSRC={ksrc}', version, base)
    git = Git(ksrc, own=True)
    top = git('rev-parse', '--show-toplevel', check=False)
    if top == str(ksrc) and not git('status', '--porcelain', '-uno'):
        return Linux(version, git('rev-parse', 'HEAD^{tree}'), git.path('objects').resolve())
    for name in ('.config', 'include/generated'):
        if (ksrc / name).exists():
            raise Fail(f'KSRC={ksrc} was built in (it has {name}): run "make mrproper" there or,\n'
                       'in a git tree, commit or stash the changes')
    return import_tree(ksrc, version)


def import_tree(ksrc, version):
    """Import a tree that is not in git, as it is now. The saved index makes the
    next import quick."""
    key = hashlib.sha1(os.fsencode(ksrc)).hexdigest()[:12]
    with locked_cache():
        store = CACHE / f'ksrc-{version}-{key}'
        if not store.exists():
            with unfinished(store) as fresh:
                make_repository(fresh, bare=True)
        index = store / 'index.new'
        if (store / 'index').exists():
            shutil.copy2(store / 'index', index)
        progress(f'importing {ksrc}')
        git = Git(ksrc, env={'GIT_DIR': str(store), 'GIT_WORK_TREE': str(ksrc),
                             'GIT_INDEX_FILE': str(index)})
        git.run('add', '-A', '-f', '.')
        tree = git('write-tree')
        index.rename(store / 'index')
    return Linux(version, tree, (store / 'objects').resolve())


def from_package(version, exactly=False):
    """Linux from the archive's source package, downloaded and unpacked into the
    cache once. Nothing is installed."""
    if not pristine(version).exists():
        package = choose_package(version, exactly)
        version = upstream(package)
        with locked_cache():
            if not pristine(version).exists():
                unpack(package)
    git = Git(pristine(version))
    return Linux(version, git('rev-parse', 'base^{tree}'), git.path('objects').resolve())


def upstream(package):
    """The Linux version of a package's version."""
    return re.match(r'[\d.]*', package)[0]


def apt(tool, *args, cwd=None):
    """Run apt-get or apt-cache; return its output."""
    try:
        done = subprocess.run([tool, *args], cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Fail(f'this machine has no {tool} to get Linux from Debian:\n'
                   'name a Linux tree with KSRC=/path/to/tree') from None
    if done.returncode:
        raise Fail(f'{tool} {" ".join(args)} failed ("apt-get update" may help):\n'
                   + done.stderr.rstrip())
    return done.stdout


def choose_package(version, exactly):
    """The newest package of that Linux version or, unless exactly, of a later one."""
    lines = apt('apt-cache', 'madison', PACKAGE).splitlines()
    have = [line.split('|')[1].strip() for line in lines if line.count('|') >= 2]
    for package in have:
        if upstream(package) == version:
            return package
    for package in have:
        if not exactly and usable(upstream(package), version):
            return package
    there = ', '.join(dict.fromkeys(upstream(package) for package in have))
    raise Fail(f'the archive has no {PACKAGE} of Linux {version}, '
               + (f'only of {there}' if have else 'nor of any other version')
               + ':\nrun apt-get update, or name a tree of that version with KSRC=/path/to/tree')


def pristine(version):
    return CACHE / f'linux-{version}'


def unpack(package):
    """Unpack the package into the cache, as a git tree."""
    version = upstream(package)
    with unfinished(pristine(version)) as tree:
        tree.mkdir()
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            progress(f'downloading {PACKAGE} {package} (once)')
            apt('apt-get', '-q', '-o', 'APT::Sandbox::User=root', 'download',
                f'{PACKAGE}={package}', cwd=scratch)
            progress('unpacking the package (once)')
            done = subprocess.run(
                ['bash', '-c', 'set -o pipefail; dpkg-deb --fsys-tarfile *.deb |'
                 ' tar -xO "./usr/src/$1.tar.xz" | tar -xJ -C "$2" --strip-components=1',
                 'unpack', PACKAGE, tree],
                cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Fail(f'{PACKAGE} {package} cannot be unpacked:\n{done.stderr}')
        found = version_of((tree / 'Makefile').read_text(), PACKAGE)
        if found != version:
            raise Fail(f'{PACKAGE} has Linux {found}, though it says {version}')
        progress('importing the sources into git (once)')
        git = make_repository(tree, branch='pristine')
        git.run('add', '-A', '-f', '.')
        commit = commit_linux(git, git('write-tree'), version)
        git.run('update-ref', 'HEAD', commit)
        git.run('tag', 'base', commit)


class locked_cache:
    """Lets only one process at a time add to the cache."""

    def __enter__(self):
        CACHE.mkdir(parents=True, exist_ok=True)
        self.file = open(CACHE / 'lock', 'w', encoding='ascii')
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


class unfinished:
    """A directory that gets its final name when it is complete."""

    def __init__(self, final):
        self.final = final
        self.temporary = final.with_name(final.name + '.tmp')

    def __enter__(self):
        shutil.rmtree(self.temporary, ignore_errors=True)
        return self.temporary

    def __exit__(self, kind, *_):
        if kind:
            shutil.rmtree(self.temporary, ignore_errors=True)
        else:
            self.temporary.rename(self.final)


def make_repository(directory, bare=False, branch=BRANCH):
    """Make a git repository for kernels, in a directory that may have files."""
    directory.mkdir(parents=True, exist_ok=True)
    git = Git(directory)
    git.run('init', '-q', '-b', branch, *(['--bare'] if bare else []))
    git.run('config', 'core.compression', '1')
    git.run('config', 'gc.auto', '0')
    # Like the kernel's own .gitattributes, which a bare repository does not see.
    attributes = git.path('info/attributes')
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text('*.c diff=cpp\n*.h diff=cpp\n')
    return git


# The repository's files -----------------------------------------------------

@dataclasses.dataclass
class Patch:
    name: str       # as in patches/series: TOPIC/NAME.patch
    info: dict      # the mail's Author, Email, Date, Subject
    message: bytes  # the commit message
    claims: list    # kernel paths of the files that the patch adds
    diff: bytes

    @property
    def topic(self):
        return self.name.split('/')[0]


class Series:
    """The series as it is in the repository, or in a copy of it at root."""

    def __init__(self, root=ROOT):
        self.root = root
        self.file = root / 'patches/series'
        if not self.file.is_file():
            raise Fail(f'{self.file} is missing: it lists the patches in order')
        lines = [line.strip() for line in self.file.read_text().splitlines()]
        self.names = [line for line in lines if line and not line.startswith('#')]
        for name in self.names:
            self.check_line(name)
        self.patches = [read_patch(root / 'patches', name) for name in self.names]
        self.topics = list(dict.fromkeys(patch.topic for patch in self.patches))
        self.check_order()

    def check_line(self, name):
        if not SERIES_LINE.fullmatch(name):
            raise Fail(f'patches/series has "{name}", a patch in no topic: move it to a folder\n'
                       'of patches/ and write TOPIC/NAME.patch')
        if not (self.root / 'patches' / name).is_file():
            raise Fail(f'patches/series names {name}, which is not in patches/')
        if self.names.count(name) > 1:
            raise Fail(f'patches/series names {name} twice')

    def check_order(self):
        """Fail unless the patches of each topic are together."""
        for before, patch in zip(self.patches, self.patches[1:]):
            first = next(p for p in self.patches if p.topic == patch.topic)
            if patch.topic != before.topic and first is not patch:
                raise Fail(f'patches/series has {patch.name} after {before.name}: '
                           f'the patches of topic {patch.topic}\nmust be together')

    def source(self, path):
        """The repository's file for a kernel path."""
        return self.root / MOVED.get(path, path)

    def check_claims(self):
        """Fail unless exactly one patch claims each new file."""
        owner = {}
        for patch in self.patches:
            for path in patch.claims:
                if path in owner:
                    raise Fail(f'{path} is claimed by two patches: {owner[path]} and {patch.name}')
                owner[path] = patch.name
                source = self.source(path)
                if source.is_symlink() or not source.is_file():
                    raise Fail(f'{patch.name} has "Overlay: {path}", but there is no file {source}')
        claimed = {MOVED.get(path, path) for path in owner}
        for path in sorted(new_files(self.root) - claimed):
            raise Fail(f'{path} is claimed by no patch: name it in an "Overlay:" line\n'
                       'of the patch that adds it, or remove it')
        for path in sorted(patch_files(self.root)):
            if path.removeprefix('patches/') not in self.names:
                raise Fail(f'{path} is not in patches/series: add it there, or remove the file')


def patch_files(root):
    """All patch files, whether or not patches/series lists them."""
    return {str(path.relative_to(root)) for path in (root / 'patches').rglob('*.patch')}


def new_files(root):
    """The repository's new kernel files, tracked by git or not."""
    names = Git(root, own=True).names('ls-files', '-z', '-c', '-o', '--exclude-standard',
                                      '--', *NEW_DIRS, *MOVED.values())
    return {name for name in names if os.path.lexists(root / name)}


def listing(root):
    """The files that the commits are made of: {path in the repository: hash}."""
    paths = new_files(root) | patch_files(root) | {'patches/series'}
    return {path: digest(root / path) for path in sorted(paths) if (root / path).is_file()}


def digest(path):
    return hashlib.sha1(path.read_bytes() + mode_of(path).encode()).hexdigest()


def mode_of(path):
    return '100755' if os.access(path, os.X_OK) else '100644'


def read_patch(directory, name):
    path = directory / name
    git = Git(directory)
    with tempfile.TemporaryDirectory() as scratch:
        body, rest = Path(scratch, 'body'), Path(scratch, 'rest')
        info = git('mailinfo', '-b', '--no-scissors', '--encoding=UTF-8', body, rest,
                   stdin=path.read_bytes())
        info = dict(line.split(': ', 1) for line in info.splitlines() if ': ' in line)
        for field, header in (('Email', 'From'), ('Date', 'Date'), ('Subject', 'Subject')):
            if not info.get(field):
                raise Fail(f'{name} has no "{header}:" line: a patch begins like a mail')
        message = info['Subject'].encode() + b'\n\n' + body.read_bytes()
        notes, diff = split_diff(rest.read_bytes())
    claims = []
    for line in notes.decode(errors='replace').splitlines():
        if line.startswith('Overlay:'):
            claims += [claim(name, word) for word in line.split()[1:]]
    if not claims and not diff:
        raise Fail(f'{name} changes nothing: after the message, write a line "---",\n'
                   'then "Overlay: FILE" lines, a diff, or both')
    return Patch(name, info, git.run('stripspace', stdin=message).stdout, claims, diff)


def split_diff(text):
    """The notes between --- and the diff, and the diff."""
    start = re.search(rb'^(diff --git |--- \S|Index: )', text, re.M)
    cut = start.start() if start else len(text)
    return text[:cut], text[cut:]


def claim(patch, word):
    """The kernel path that a word of an Overlay line claims."""
    path, _, source = word.partition('=')
    if source != MOVED.get(path, ''):
        where = f'{path}={MOVED[path]}' if path in MOVED else path
        raise Fail(f'{patch} has "Overlay: {word}": the repository keeps this file\n'
                   f'elsewhere, so write "Overlay: {where}"')
    if not path.startswith(tuple(f'{top}/' for top in NEW_DIRS)) or '..' in path.split('/'):
        raise Fail(f'{patch} has "Overlay: {word}": new files are under {", ".join(NEW_DIRS)}')
    return path


def sections(diff):
    """A diff by file: [(path, text)]."""
    parts = re.split(rb'^(?=diff --git )', diff, 0, re.M)[1:]
    return [(section_path(part), part) for part in parts]


def section_path(part):
    """The path of a file's part of a diff; diffs here rename no files."""
    head = part.split(b'\n@@ ', 1)[0]
    found = (re.search(rb'^\+\+\+ b/(.*?)\t?$', head, re.M) or re.search(rb'^--- a/(.*?)\t?$', head, re.M)
             or re.match(rb'diff --git a/.* b/(.*)$', head, re.M))
    return found[1].decode(errors='surrogateescape') if found else ''


def overlay_lines(paths):
    return ''.join(f'Overlay: {path}={MOVED[path]}\n' if path in MOVED else f'Overlay: {path}\n'
                   for path in sorted(paths))


# Commits --------------------------------------------------------------------

class Builder:
    """Makes the commits of a series in a repository, without its work tree.

    A commit is a function of its parent and its patch, so commits that the
    repository already has are reused."""

    def __init__(self, git, linux, series):
        self.git = git
        self.linux = linux
        self.series = series
        self.made = git.path('kvm-mem-made')
        self.index = git.path(f'kvm-mem-index.{os.getpid()}')
        self.env = {'GIT_INDEX_FILE': str(self.index.resolve())}
        self.index_of = None    # the commit in the index
        self.entering = {}      # {path: (mode, blob)} of new files when they enter

    def build(self):
        """All commits, Linux's first."""
        lend_objects(self.git, self.linux)
        self.entering = self.first_states()
        commits = [commit_linux(self.git, self.linux.tree, self.linux.version)]
        known = self.load()
        used = {}
        owner = {}
        try:
            for n, patch in enumerate(self.series.patches):
                key = self.key(commits[-1], patch)
                commit = known.get(key)
                if not commit or not self.git.succeeds('cat-file', '-e', f'{commit}^{{tree}}'):
                    progress(f'[{n + 1}/{len(self.series.patches)}] {patch.name}')
                    commit = self.commit(commits[-1], patch, owner)
                used[key] = commit
                commits.append(commit)
                owner |= {path: patch.name for path in patch.claims}
            self.check_end(commits[-1])
        finally:
            self.index.unlink(missing_ok=True)
            self.save(known | used)
        return commits

    def load(self):
        if not self.made.exists():
            return {}
        return dict(line.split() for line in self.made.read_text().splitlines())

    def save(self, made):
        last = list(made.items())[-1000:]
        self.made.write_text(''.join(f'{key} {commit}\n' for key, commit in last))

    def key(self, parent, patch):
        key = hashlib.sha1(parent.encode() + Path(__file__).read_bytes())
        key.update((self.series.root / 'patches' / patch.name).read_bytes())
        for path in patch.claims:
            key.update(' '.join(self.entering[path]).encode())
        return key.hexdigest()

    def final_states(self):
        """{path: (mode, blob)} of the new files in the repository."""
        paths = [path for patch in self.series.patches for path in patch.claims]
        if not paths:
            return {}
        sources = [self.series.source(path) for path in paths]
        blobs = self.git('hash-object', '-w', '--no-filters', '--stdin-paths',
                         stdin=''.join(f'{s.resolve()}\n' for s in sources).encode()).split()
        return {path: (mode_of(source), blob) for path, source, blob in zip(paths, sources, blobs)}

    def first_states(self):
        """{path: (mode, blob)} of the new files when they enter: their final states
        without the hunks of later patches."""
        final, first, later = self.final_states(), {}, set()
        self.git.run('read-tree', '--empty', env=self.env)
        self.enter(final)
        for patch in reversed(self.series.patches):
            hunks = b''.join(part for path, part in sections(patch.diff)
                             if path in final and path not in first and path not in patch.claims)
            if hunks:
                self.take_off(patch, hunks)
            touched = {path for path, _ in sections(hunks)}
            later |= touched
            for path in patch.claims:
                first[path] = self.in_index(path) if path in later else final[path]
        return first

    def take_off(self, patch, hunks):
        done = self.git.run('apply', '--cached', '--reverse', '--whitespace=nowarn', '-',
                            stdin=hunks, env=self.env, check=False)
        if done.returncode:
            errors = done.stderr.decode(errors='replace')
            raise Fail(f'{patch.name} edits a file of the series, and its hunks do not come off again:\n'
                       + hunks_named(hunks, errors)
                       + 'The repository has the final state of the file: it must have the lines '
                       'that the patch adds.')

    def in_index(self, path):
        mode, blob, *_ = self.git('ls-files', '-s', '--', f':(literal){path}', env=self.env).split()
        return mode, blob

    def enter(self, states):
        """Put files into the index."""
        if states:
            entries = ''.join(f'{mode} {blob}\t{path}\0' for path, (mode, blob) in states.items())
            self.git.run('update-index', '--add', '-z', '--index-info', stdin=entries.encode(),
                         env=self.env)

    def check_end(self, commit):
        """Fail unless each hunk went back on where it came off."""
        for path, (mode, blob) in self.final_states().items():
            now = self.git('ls-tree', commit, '--', path).split()
            if now[:1] + now[2:3] != [mode, blob]:
                raise Fail(f'{path} differs between the end of the series and the repository:\n'
                           "a later patch's hunk fits in two places. Give it exact line numbers:\n"
                           f'git diff {commit[:12]}:{path} {blob[:12]}   (in {self.git.directory})')

    def commit(self, parent, patch, owner):
        if self.index_of != parent:
            self.git.run('read-tree', parent, env=self.env)
        self.apply(patch, parent)
        self.enter({path: self.entering[path] for path in patch.claims})
        tree = self.git('write-tree', env=self.env)
        self.check(parent, tree, patch, owner)
        commit = self.git(
            'commit-tree', tree, '-p', parent, stdin=patch.message,
            env=identity(patch.info.get('Author') or patch.info['Email'],
                         patch.info['Email'], patch.info['Date']))
        self.index_of = commit
        return commit

    def apply(self, patch, parent):
        if not patch.diff:
            return
        done = self.git.run('apply', '--cached', '--whitespace=nowarn', '-',
                            stdin=patch.diff, env=self.env, check=False)
        if done.returncode:
            raise Fail(self.why(patch, done.stderr.decode(errors='replace'), parent))

    def why(self, patch, errors, parent):
        """git apply's errors, with the hunks that they are about."""
        after = self.git('log', '-1', '--format=%s', parent)
        text = f'{patch.name} does not apply after "{after}":\n' + hunks_named(patch.diff, errors)
        base = base_version(self.series.root)
        if self.linux.version != base:
            root = self.git('rev-list', '--max-parents=0', parent)
            text += (f'This is Linux {self.linux.version}; the series is against {base}. '
                     f'To rebase it, run:\ngit rebase --onto {root[:12]} base   in {self.git.directory}, '
                     'then scripts/refresh')
        return text.rstrip('\n')

    def check(self, parent, tree, patch, owner):
        """Check the rules at the head of this file."""
        changes = self.git.changes(parent, tree)
        for path, kind in changes.items():
            if path in owner and kind == 'D':
                raise Fail(f'{patch.name} removes {path}, which {owner[path]} adds:\n'
                           'leave it out there')
            if kind == 'A' and path not in patch.claims:
                raise Fail(f'the diff of {patch.name} adds {path}: a new file goes to {path}\n'
                           'in the repository, with an "Overlay:" line in the patch')
        for path in patch.claims:
            if changes.get(path) != 'A' or self.git.succeeds(
                    'cat-file', '-e', f'{self.linux.tree}:{path}'):
                raise Fail(f'{patch.name} has "Overlay: {path}", but Linux '
                           f'{self.linux.version} has that file: make it a diff')


def hunks_named(diff, errors):
    """git apply's errors, with the hunks that they are about."""
    text = ''
    for line in errors.splitlines():
        found = re.fullmatch(r'error: patch failed: (.*):(\d+)', line)
        if found:
            text += hunk_at(diff.decode(errors='replace'), found[1], int(found[2]))
        elif not line.endswith(': patch does not apply'):
            text += f'  {line.removeprefix("error: ")}\n'
    return text


def hunk_at(diff, path, line):
    """The hunk at a line of a file, as readable text."""
    start = re.search(rf'^--- (?:a/)?{re.escape(path)}(?:\t.*)?$', diff, re.M)
    section = re.split(r'^(?:diff --git |--- )', diff[start.end():], 1, re.M)[0] if start else ''
    hunks = re.split(r'^(?=@@ )', section, 0, re.M)[1:]
    for n, hunk in enumerate(hunks):
        if re.match(rf'@@ -{line}[, ]|@@ -\S+ \+{line}[, ]', hunk):
            shown = ''.join(f'    {text}\n' for text in hunk.splitlines()[:20])
            return f'  {path}: hunk {n + 1} of {len(hunks)} fails:\n{shown}'
    return f'  {path}: line {line} fails\n'


def lend_objects(git, linux):
    """Let the repository read Linux's objects in their own store."""
    alternates = git.path('objects/info/alternates')
    have = alternates.read_text().splitlines() if alternates.exists() else []
    if str(linux.objects) not in have:
        alternates.parent.mkdir(parents=True, exist_ok=True)
        alternates.write_text(''.join(f'{line}\n' for line in [*have, linux.objects]))


# The assembled tree ---------------------------------------------------------

def check_quiet(git):
    """Fail if a rebase, merge or similar operation is half done."""
    for name in ('rebase-merge', 'rebase-apply', 'MERGE_HEAD', 'CHERRY_PICK_HEAD', 'REVERT_HEAD'):
        if git.path(name).exists():
            what = re.sub('[-_](merge|apply|HEAD)$', '', name).lower().replace('_', '-')
            raise Fail(f'a {what} is under way in {git.directory}: finish or abort it first')


def uncommitted(git):
    """Tracked files that differ from HEAD (and from the target of a check-out
    that was interrupted)."""
    def differing(commit):
        return set(git.names('diff', '-z', '--name-only', '--no-renames', '--no-ext-diff', commit))

    changed = differing('HEAD')
    pending = git('config', 'kvm-mem.pending', check=False)
    if changed and pending:
        changed &= differing(pending)
    return sorted(changed)


def some(paths):
    """A few of the paths, for a message."""
    return '\n'.join(f'  {path}' for path in paths[:10]) + ('\n  ...' if len(paths) > 10 else '')


def remember(git, commit, how, files):
    """Record that the repository's files, as listed, contain the commit."""
    git.run('config', how, 'kvm-mem.produced', commit)
    text = ''.join(f'{value} {path}\n' for path, value in files.items())
    blob = git('hash-object', '-w', '--stdin', stdin=text.encode(errors='surrogateescape'))
    git.run('config', 'kvm-mem.listing', blob)


def produced(git):
    return git('config', '--get-all', 'kvm-mem.produced', check=False).split()


def remembered_listing(git):
    blob = git('config', 'kvm-mem.listing', check=False)
    lines = git('cat-file', 'blob', blob).splitlines() if blob else []
    return {path: value for value, path in (line.split(' ', 1) for line in lines)}

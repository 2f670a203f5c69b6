# SPDX-License-Identifier: GPL-2.0
"""The series as commits: what patches/assemble and patches/refresh share.

A patch of the series is a mail in patches/ plus the new files which it names
in "Overlay:" lines. A commit holds both. Three rules make each the image of
the other, and are checked in both directions:

 - a commit adds exactly the files that its patch claims;
 - it edits only files that are in Linux, since an added file exists once, in
   its final state;
 - author, date and message are the mail's, and the committer is the author.

The last makes the commits a function of Linux and the repository's files, and
so does the root commit of Linux, which is made here whatever the tree came
from. Hence equal hashes mean equal sources, everywhere.
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
TARBALL = Path('/usr/src/linux-source-6.12.tar.xz')
PACKAGE = 'linux-source-6.12'

BRANCH = 'kvm-mem'
# Where the repository keeps new kernel files, each at its kernel path ...
NEW_DIRS = ('arch', 'virt', 'drivers', 'include', 'Documentation', 'tools', 'samples')
# ... but for these (kernel path: path here).
MOVED = {'virt/kvm/Kconfig.mem': 'Kconfig'}

PATCH_NAME = re.compile(r'\d{4}-.*\.patch')
ZERO = '0' * 40


class Fail(Exception):
    """What is wrong, and what to do about it."""


def run_main(main):
    """Run main(), and end as scripts/lib.sh's die() would on Fail."""
    try:
        main()
    except Fail as error:
        progress_end()
        sys.exit(f'{Path(sys.argv[0]).name}: {error}')
    except KeyboardInterrupt:
        progress_end()
        sys.exit(130)


def arguments(doc, *switches):
    """The command line: DIR and switches; -h prints doc."""
    parser = argparse.ArgumentParser()
    parser.format_help = lambda: f'{doc}\n'
    parser.format_usage = lambda: f'{doc.splitlines()[0]}\n'
    parser.add_argument('dir', nargs='?', default=ROOT / 'build/linux', type=Path)
    for name in switches:
        parser.add_argument(f'--{name}', action='store_true')
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

    With own=True the repository is the user's and so is the configuration
    (safe.directory, above all)."""

    def __init__(self, directory, own=False, env=None):
        self.directory = Path(directory)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith('GIT_')}
        self.env['LC_ALL'] = 'C'
        if not own:
            self.env.update(GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM='1')
        self.env.update(env or {})

    def run(self, *args, stdin=None, env=None, check=True):
        """The finished process; its output in bytes."""
        done = subprocess.run(
            ['git', '-C', self.directory, *args], input=stdin, check=False,
            env=self.env | (env or {}), capture_output=True)
        if check and done.returncode:
            raise Fail(f'git {args[0]} in {self.directory} failed:\n'
                       + done.stderr.decode(errors='replace').rstrip())
        return done

    def __call__(self, *args, **kwargs):
        """Its standard output, stripped."""
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
        """Output that is a list of NUL-ended names."""
        out = self.run(*args, **kwargs).stdout.decode(errors='surrogateescape')
        return [name for name in out.split('\0') if name]

    def changes(self, old, new):
        """What new has changed of old: {path: 'A', 'M', 'D' or 'T'}."""
        fields = self.names('diff-tree', '-r', '-z', '--no-renames', '--name-status', old, new)
        return dict(zip(fields[1::2], fields[::2]))


def identity(name, email, date):
    return {f'GIT_{who}_{what}': value for who in ('AUTHOR', 'COMMITTER')
            for what, value in (('NAME', name), ('EMAIL', email), ('DATE', date))}


def commit_linux(git, tree, version):
    """The root commit: the same for the same tree, wherever it came from."""
    return git('commit-tree', tree, stdin=f'Linux {version}\n'.encode(),
               env=identity('kvm-mem', 'kvm-mem@localhost', '@0 +0000'))


# Linux ----------------------------------------------------------------------

@dataclasses.dataclass
class Linux:
    version: str
    tree: str       # the tree object
    objects: Path   # the object store that has it


def base_version(root=ROOT):
    return (root / 'BASE').read_text().strip()


def version_of(makefile, where):
    value = dict(re.findall(r'^(VERSION|PATCHLEVEL|SUBLEVEL) *= *(\d+)$', makefile, re.M))
    if len(value) != 3:
        raise Fail(f'{where} is not a Linux tree: its Makefile states no version')
    return '{VERSION}.{PATCHLEVEL}.{SUBLEVEL}'.format(**value)


def usable(version, base):
    """Is version base, or a later one of the same stable series?"""
    have, want = ([int(n) for n in v.split('.')] for v in (version, base))
    return have[:2] == want[:2] and have[2] >= want[2]


def refuse(where, version, base):
    series = base.rsplit('.', 1)[0]
    raise Fail(f'{where} is Linux {version}, and the series is against {base}:\n'
               f'give {base} or a later {series}.N')


def find_linux(base):
    """Linux: KSRC when given, else the distribution's source package."""
    ksrc = os.environ.get('KSRC')
    return from_ksrc(Path(ksrc), base) if ksrc else from_package(base)


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
            raise Fail(f'KSRC={ksrc} was built in ({name} is there): "make mrproper" there,\n'
                       'or, in a git tree, commit or stash what is changed')
    return import_tree(ksrc, version)


def import_tree(ksrc, version):
    """A tree that is not in git, as it is now. The index which is kept makes
    the next time quick."""
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


def from_package(base):
    """The package's Linux, unpacked once into the cache."""
    version = base
    if not pristine(base).exists():
        done = subprocess.run(['dpkg-query', '-W', '-f', '${Version}', PACKAGE],
                              capture_output=True, text=True, check=False)
        if done.returncode or not TARBALL.exists():
            raise Fail(f'the package {PACKAGE} is not installed: run ./setup,\n'
                       f'or give a tree of Linux {base} as KSRC=/path/to/tree')
        version = re.match(r'[\d.]*', done.stdout)[0]
        if not usable(version, base):
            refuse(f'package {PACKAGE}', version, base)
        with locked_cache():
            if not pristine(version).exists():
                unpack(version)
    git = Git(pristine(version))
    return Linux(version, git('rev-parse', 'base^{tree}'), git.path('objects').resolve())


def pristine(version):
    return CACHE / f'linux-{version}'


def unpack(version):
    with unfinished(pristine(version)) as tree:
        progress(f'unpacking {TARBALL} (once)')
        tree.mkdir()
        done = subprocess.run(['tar', '-xf', TARBALL, '-C', tree, '--strip-components=1'],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise Fail(f'{TARBALL} cannot be unpacked:\n{done.stderr}')
        found = version_of((tree / 'Makefile').read_text(), TARBALL)
        if found != version:
            raise Fail(f'{TARBALL} has Linux {found}, though its package says {version}')
        progress('importing it into git (once)')
        git = make_repository(tree, branch='pristine')
        git.run('add', '-A', '-f', '.')
        commit = commit_linux(git, git('write-tree'), version)
        git.run('update-ref', 'HEAD', commit)
        git.run('tag', 'base', commit)


class locked_cache:
    """Only one process at a time adds to the cache."""

    def __enter__(self):
        CACHE.mkdir(parents=True, exist_ok=True)
        self.file = open(CACHE / 'lock', 'w', encoding='ascii')
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


class unfinished:
    """A directory that gets its name when it is whole."""

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
    """A new git repository for kernels, in a directory that may have files."""
    directory.mkdir(parents=True, exist_ok=True)
    git = Git(directory)
    git.run('init', '-q', '-b', branch, *(['--bare'] if bare else []))
    git.run('config', 'core.compression', '1')
    git.run('config', 'gc.auto', '0')
    # As the kernel's own .gitattributes, which a bare repository does not see.
    attributes = git.path('info/attributes')
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text('*.c diff=cpp\n*.h diff=cpp\n')
    return git


# The repository's files -----------------------------------------------------

@dataclasses.dataclass
class Patch:
    name: str
    info: dict      # the mail's Author, Email, Date, Subject
    message: bytes  # the commit's
    claims: list    # kernel paths of the files that enter with it
    diff: bytes


class Series:
    """The series as it is in the repository, or in a copy of it at root."""

    def __init__(self, root=ROOT):
        self.root = root
        self.file = root / 'patches/series'
        if not self.file.is_file():
            raise Fail(f'{self.file} is missing: it lists the patches in their order')
        lines = [line.strip() for line in self.file.read_text().splitlines()]
        names = [line for line in lines if line and not line.startswith('#')]
        for name in names:
            if not (root / 'patches' / name).is_file():
                raise Fail(f'patches/series names {name}, which is not in patches/')
            if names.count(name) > 1:
                raise Fail(f'patches/series names {name} twice')
        self.patches = [read_patch(root / 'patches' / name) for name in names]
        self.names = names

    def source(self, path):
        """Where the new file of that kernel path is in the repository."""
        return self.root / MOVED.get(path, path)

    def check_claims(self):
        """Every new file is claimed by exactly one patch."""
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
                       'of the patch it belongs to, or remove it')
        for path in sorted(patch_files(self.root)):
            if Path(path).name not in self.names:
                raise Fail(f'{path} is not in patches/series')


def patch_files(root):
    return {f'patches/{path.name}' for path in (root / 'patches').iterdir()
            if PATCH_NAME.fullmatch(path.name)}


def new_files(root):
    """The repository's new kernel files, known to git or not yet."""
    names = Git(root, own=True).names('ls-files', '-z', '-c', '-o', '--exclude-standard',
                                      '--', *NEW_DIRS, *MOVED.values())
    return {name for name in names if os.path.lexists(root / name)}


def listing(root):
    """What the commits are made of: {path in the repository: hash}."""
    paths = new_files(root) | patch_files(root) | {'patches/series'}
    return {path: digest(root / path) for path in sorted(paths) if (root / path).is_file()}


def digest(path):
    return hashlib.sha1(path.read_bytes() + mode_of(path).encode()).hexdigest()


def mode_of(path):
    return '100755' if os.access(path, os.X_OK) else '100644'


def read_patch(path):
    git = Git(path.parent)
    with tempfile.TemporaryDirectory() as scratch:
        body, rest = Path(scratch, 'body'), Path(scratch, 'rest')
        info = git('mailinfo', '-b', '--no-scissors', '--encoding=UTF-8', body, rest,
                   stdin=path.read_bytes())
        info = dict(line.split(': ', 1) for line in info.splitlines() if ': ' in line)
        for field, header in (('Email', 'From'), ('Date', 'Date'), ('Subject', 'Subject')):
            if not info.get(field):
                raise Fail(f'{path.name} has no {header}: line: a patch begins like a mail')
        message = info['Subject'].encode() + b'\n\n' + body.read_bytes()
        notes, diff = split_diff(rest.read_bytes())
    claims = []
    for line in notes.decode(errors='replace').splitlines():
        if line.startswith('Overlay:'):
            claims += [claim(path.name, word) for word in line.split()[1:]]
    if not claims and not diff:
        raise Fail(f'{path.name} changes nothing: after the message goes a line "---",\n'
                   'then "Overlay: FILE" lines, a diff, or both')
    return Patch(path.name, info, git.run('stripspace', stdin=message).stdout, claims, diff)


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


def overlay_lines(paths):
    return ''.join(f'Overlay: {path}={MOVED[path]}\n' if path in MOVED else f'Overlay: {path}\n'
                   for path in sorted(paths))


# Commits --------------------------------------------------------------------

class Builder:
    """Makes the commits of a series in a repository, without its work tree.

    A commit is a function of its parent and its patch, so one made before is
    taken from the repository."""

    def __init__(self, git, linux, series):
        self.git = git
        self.linux = linux
        self.series = series
        self.made = git.path('kvm-mem-made')
        self.index = git.path(f'kvm-mem-index.{os.getpid()}')
        self.env = {'GIT_INDEX_FILE': str(self.index.resolve())}
        self.index_of = None    # the commit in the index

    def build(self):
        """All commits, Linux's first."""
        lend_objects(self.git, self.linux)
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
            key.update(digest(self.series.source(path)).encode())
        return key.hexdigest()

    def commit(self, parent, patch, owner):
        if self.index_of != parent:
            self.git.run('read-tree', parent, env=self.env)
        self.apply(patch, parent)
        self.overlay(patch)
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
        """git apply's errors, with the hunks that it means."""
        after = self.git('log', '-1', '--format=%s', parent)
        text = f'{patch.name} does not apply after "{after}":\n'
        for line in errors.splitlines():
            found = re.fullmatch(r'error: patch failed: (.*):(\d+)', line)
            if found:
                text += hunk_at(patch.diff.decode(errors='replace'), found[1], int(found[2]))
            elif not line.endswith(': patch does not apply'):
                text += f'  {line.removeprefix("error: ")}\n'
        base = base_version(self.series.root)
        if self.linux.version != base:
            root = self.git('rev-list', '--max-parents=0', parent)
            text += (f'This is Linux {self.linux.version}; the series is against {base}. '
                     f'To bring it there:\ngit rebase --onto {root[:12]} base   in {self.git.directory}, '
                     'and patches/refresh')
        return text.rstrip('\n')

    def overlay(self, patch):
        if not patch.claims:
            return
        sources = [self.series.source(path) for path in patch.claims]
        blobs = self.git('hash-object', '-w', '--no-filters', '--stdin-paths',
                         stdin=''.join(f'{s.resolve()}\n' for s in sources).encode()).split()
        entries = ''.join(f'{mode_of(source)} {blob}\t{path}\0' for source, blob, path
                          in zip(sources, blobs, patch.claims))
        self.git.run('update-index', '-z', '--index-info', stdin=entries.encode(), env=self.env)

    def check(self, parent, tree, patch, owner):
        """The rules at the head of this file."""
        changes = self.git.changes(parent, tree)
        for path, kind in changes.items():
            if path in owner:
                raise Fail(f'{patch.name} edits {path}, which {owner[path]} brings:\n'
                           'edit the file itself')
            if kind == 'A' and path not in patch.claims:
                raise Fail(f'the diff of {patch.name} adds {path}: a new file goes to {path}\n'
                           'in the repository, with an "Overlay:" line in the patch')
        for path in patch.claims:
            if changes.get(path) != 'A' or self.git.succeeds(
                    'cat-file', '-e', f'{self.linux.tree}:{path}'):
                raise Fail(f'{patch.name} has "Overlay: {path}", but Linux '
                           f'{self.linux.version} has that file: make it a diff')


def hunk_at(diff, path, line):
    """The hunk for a file's line, as text for a person."""
    start = re.search(rf'^--- (?:a/)?{re.escape(path)}(?:\t.*)?$', diff, re.M)
    section = re.split(r'^(?:diff --git |--- )', diff[start.end():], 1, re.M)[0] if start else ''
    hunks = re.split(r'^(?=@@ )', section, 0, re.M)[1:]
    for n, hunk in enumerate(hunks):
        if re.match(rf'@@ -{line}[, ]', hunk):
            shown = ''.join(f'    {text}\n' for text in hunk.splitlines()[:20])
            return f'  {path}: hunk {n + 1} of {len(hunks)} fails:\n{shown}'
    return f'  {path}: line {line} fails\n'


def lend_objects(git, linux):
    """Let the repository read Linux's objects where they are."""
    alternates = git.path('objects/info/alternates')
    have = alternates.read_text().splitlines() if alternates.exists() else []
    if str(linux.objects) not in have:
        alternates.parent.mkdir(parents=True, exist_ok=True)
        alternates.write_text(''.join(f'{line}\n' for line in [*have, linux.objects]))


# The assembled tree ---------------------------------------------------------

def check_quiet(git):
    """No rebase, merge or the like is half done."""
    for name in ('rebase-merge', 'rebase-apply', 'MERGE_HEAD', 'CHERRY_PICK_HEAD', 'REVERT_HEAD'):
        if git.path(name).exists():
            what = re.sub('[-_](merge|apply|HEAD)$', '', name).lower().replace('_', '-')
            raise Fail(f'a {what} is under way in {git.directory}: finish it or give it up first')


def uncommitted(git):
    """Tracked files that differ from HEAD (and from the state to which a
    check-out that was interrupted was on its way)."""
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
    """Record that commit is in the repository's files, when they are as listed."""
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

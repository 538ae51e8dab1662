"""Trees for tests: every kind of file there is, and two independent ways to tell that two trees are the same.

Owns how such trees are made and compared. Knows nothing of backups, so that what it says about a restored tree is a
second opinion.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import socket
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Tuple

import pytest
from conftest import NOBODY, noise, write, write_tree

IS_ROOT = os.geteuid() == 0

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may do this")
needs_user = pytest.mark.skipif(IS_ROOT, reason="root may do anything")

Facts = Dict[bytes, Tuple[object, ...]]


def program(name: str) -> str:
    """Return the path of an external program; skip the test where it is not installed."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def random_bytes(size: int, seed: int = 0) -> bytes:
    """Return bytes that no compressor makes smaller, the same ones each time."""
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "big") if size else b""


# Making.


def make_every_kind(root: Path) -> None:
    """Make a tree with every kind of file, name and attribute that the present user may have."""
    root.mkdir()
    _make_files(root / "files")
    _make_names(os.fsencode(root / "names"))
    _make_links(root / "links")
    _make_specials(root / "specials")
    _make_sparse(root / "sparse")
    _make_attributes(root / "attributes")
    if os.geteuid() == 0:
        _make_owners(root / "owners")
        _make_devices(root / "devices")
    _make_directories(root / "directories")
    _make_times(root / "times")
    os.chmod(root, 0o751)


def make_some_of_everything(root: Path, lines: int, size: int) -> Path:
    """Make a small tree: two small files, an empty one, links, a FIFO, an attribute, and a large file with two holes.

    Args:
        lines: Of each of the two pieces of the large file, the second of which begins at 1 MiB.
        size: Its bytes.
    """
    write_tree(
        root,
        {
            "one.txt": b"the first file\n" * 20,
            "empty": b"",
            "sub/three.txt": b"the third file\n" * 50,
            "sub/noise": noise(300),
        },
    )
    os.link(str(root / "one.txt"), str(root / "link"))
    (root / "symlink").symlink_to("one.txt")
    os.mkfifo(str(root / "fifo"))
    os.setxattr(str(root / "sub" / "noise"), "user.note", b"attribute")
    pieces = [(0, b"a large file, line after line\n" * lines), (1 << 20, b"and its end\n" * lines)]
    make_sparse_file(root / "large", size, pieces)
    return root


def _make_files(root: Path) -> None:
    write(root / "empty", b"")
    write(root / "small", b"small\n")
    write(root / "copy of small", b"small\n")
    write(root / "zeros", bytes(70_000))
    write(root / "large", random_bytes(3 << 20) + b"tail")
    write(root / "large and uneven", random_bytes(1 << 20, seed=1) * 2 + b"x")
    for mode in (0o400, 0o444, 0o555, 0o600, 0o666, 0o777, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777):
        path = write(root / f"mode {mode:o}", b"mode %o" % mode)
        path.chmod(mode)
    if os.geteuid() == 0:
        for mode in (0o000, 0o200, 0o4000):
            write(root / f"mode {mode:o}", b"mode %o" % mode).chmod(mode)


def _make_names(root: bytes) -> None:
    os.mkdir(root)
    names = [
        *(b"a", b"a-b", b"a.b", b"a0", b"A", b"-rf", b"--", b"...", b"..x", b"~", b" ", b" two  spaces "),
        *(b"#comment", b"!not", b"*", b"?", b"[a]", b"a\\b", b"'\"", b"$HOME", b"`id`", b"%s", b"&amp;<b>"),
        *(b"new\nline", b"\n", b"tab\t", b"\x1b[31mred", b"\x01", b"\x7f", b"\r"),
        *(b"\xff", b"\xfe\xffmixed", b"latin-\xe9", b"broken-\xe2\x82", b"\xed\xa0\x80"),
        *("é".encode(), "e\u0301".encode(), "日本語".encode(), "\u202eevil".encode(), "😀".encode()),
        *(b"n" * 255, "é".encode() * 127 + b"x", b"\xff" * 255),
    ]
    for name in names:
        with open(os.path.join(root, name), "wb") as file:
            file.write(b"named " + name)
    for name in (b"d\xff", b"d\nd", b"d" * 255, b"dir", b"dir-", b"dir.d"):
        os.mkdir(os.path.join(root, name))
        with open(os.path.join(root, name, b"\xffinside\n"), "wb") as file:
            file.write(b"inside " + name)


def _make_links(root: Path) -> None:
    root.mkdir()
    for name, target in (
        ("to a file", "../files/small"),
        ("to a directory", "../files"),
        ("to the parent", ".."),
        ("to itself", "to itself"),
        ("dangling", "nowhere/at/all"),
        ("absolute", "/etc/hostname"),
        ("not UTF-8", os.fsdecode(b"\xff\n")),
        ("long", "x/" * 2000 + "x"),
    ):
        (root / name).symlink_to(target)
    write(root / "one", b"linked")
    (root / "sub").mkdir()
    for name in ("two", "sub/three"):
        os.link(root / "one", root / name)
    write(root / "large one", random_bytes(2 << 20, seed=2))
    os.link(root / "large one", root / "sub/large two")
    os.link(root / "dangling", root / "sub/linked symlink", follow_symlinks=False)
    os.link(root / "to a directory", root / "sub/linked symlink to a directory", follow_symlinks=False)


def _make_specials(root: Path) -> None:
    root.mkdir()
    os.mkfifo(root / "fifo", 0o640)
    os.mkfifo(root / "linked fifo")
    os.link(root / "linked fifo", root / "second linked fifo")
    os.mknod(root / "socket", stat.S_IFSOCK | 0o755)
    os.link(root / "socket", root / "linked socket")
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(root, os.O_RDONLY)  # the name of a socket is at most 107 bytes long
        try:
            server.bind(f"/proc/self/fd/{descriptor}/bound socket")
        finally:
            os.close(descriptor)


def _make_sparse(root: Path) -> None:
    root.mkdir()
    make_sparse_file(root / "hole at the end", 5 << 20, [(0, b"begin")])
    make_sparse_file(root / "hole at the beginning", 5 << 20, [((5 << 20) - 3, b"end")])
    make_sparse_file(root / "nothing but a hole", 9 << 20, [])
    make_sparse_file(root / "small", 300_000, [(100_000, b"middle")])
    make_sparse_file(root / "small and empty", 65536, [])
    make_sparse_file(root / "many holes", 40 << 20, [(at << 20, random_bytes(5000, seed=at)) for at in range(1, 40, 4)])
    make_sparse_file(root / "one byte short", (2 << 20) - 1, [(4096, b"x"), ((2 << 20) - 4097, b"y" * 4096)])


def make_sparse_file(path: Path, size: int, pieces: list[tuple[int, bytes]]) -> None:
    """Write pieces of data into a file that consists of holes otherwise."""
    with path.open("wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)


def _make_attributes(root: Path) -> None:
    root.mkdir()
    (root / "directory").mkdir()
    path = write(root / "file", b"with attributes")
    try:
        os.setxattr(path, "user.first", b"1")
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return  # this file system has none
        raise
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.binary", bytes(range(256)))
    os.setxattr(path, os.fsdecode(b"user.\xff\n"), b"odd name")
    os.setxattr(root / "directory", "user.of a directory", b"2")
    read_only = write(root / "read-only", b"read-only, with attributes")
    os.setxattr(read_only, "user.first", b"3")
    read_only.chmod(0o444)
    linked = write(root / "linked", b"linked, with attributes")
    os.setxattr(linked, "user.first", b"4")
    os.link(linked, root / "directory" / "linked")
    (root / "read-only directory").mkdir()
    os.setxattr(root / "read-only directory", "user.first", b"5")
    (root / "read-only directory").chmod(0o555)
    if os.geteuid() == 0:
        os.setxattr(path, "trusted.of a file", b"6")
        (root / "symlink").symlink_to("nowhere")
        os.setxattr(root / "symlink", "trusted.of a symlink", b"7", follow_symlinks=False)
        os.mkfifo(root / "fifo")
        os.setxattr(root / "fifo", "trusted.of a fifo", b"8", follow_symlinks=False)
    _make_acls(root / "acls")
    _make_capabilities(root)


def _make_acls(root: Path) -> None:
    setfacl = shutil.which("setfacl")
    if setfacl is None:
        return
    write(root / "file", b"with an ACL").chmod(0o640)
    write(root / "masked", b"with a masked ACL").chmod(0o604)
    write(root / "read-only", b"read-only, with an ACL").chmod(0o440)
    (root / "directory").mkdir()
    for arguments in (
        ("-m", "u:1234:rw,g:2345:r", root / "file"),
        ("-m", "u:1234:rwx,m::r", root / "masked"),
        ("-m", "u:1234:r", root / "read-only"),
        ("-m", "u:1234:rx,d:u:1234:rwx,d:g:2345:rx,d:o::-", root / "directory"),
    ):
        subprocess.run([setfacl, *map(str, arguments)], check=True)
    write(root / "directory" / "inherits", b"inherits an ACL")
    write(root / "directory" / "does not", b"inherits none")
    subprocess.run([setfacl, "-b", str(root / "directory" / "does not")], check=True)
    (root / "directory" / "sub").mkdir()


def _make_capabilities(root: Path) -> None:
    setcap = shutil.which("setcap", path=os.defpath + ":/usr/sbin:/sbin")
    if setcap is None or os.geteuid() != 0:
        return
    for name, owner in (("capable", 0), ("capable and not root's", 1234)):
        path = write(root / name, b"capable")
        os.chown(path, owner, owner)
        path.chmod(0o755)
        subprocess.run([setcap, "cap_net_raw,cap_net_bind_service+ep", str(path)], check=True)


def _make_owners(root: Path) -> None:
    root.mkdir()
    for uid, gid in ((0, 1), (1, 0), (1234, 2345), (NOBODY, NOBODY), (4_000_000_000, 4_100_000_000)):
        path = write(root / f"file of {uid}:{gid}", b"owned")
        (root / f"symlink of {uid}:{gid}").symlink_to("nowhere")
        (root / f"directory of {uid}:{gid}").mkdir()
        os.mkfifo(root / f"fifo of {uid}:{gid}")
        for name in os.listdir(root):
            if name.endswith(f" of {uid}:{gid}"):
                os.chown(root / name, uid, gid, follow_symlinks=False)
        path.chmod(0o6755)


def _make_devices(root: Path) -> None:
    root.mkdir()
    for name, kind, major, minor in (
        ("null", stat.S_IFCHR, 1, 3),
        ("block", stat.S_IFBLK, 7, 200),
        ("large numbers", stat.S_IFCHR, 4000, 1_000_000),
    ):
        try:
            os.mknod(root / name, kind | 0o620, os.makedev(major, minor))
        except PermissionError:
            return  # in a container root may not either
    os.link(root / "null", root / "linked null")


def _make_directories(root: Path) -> None:
    (root / "empty").mkdir(parents=True)
    for mode in (0o500, 0o555, 0o700, 0o711, 0o777, 0o1777, 0o2775, 0o3770):
        path = root / f"mode {mode:o}"
        write(path / "sub" / "file", b"inside")
        (path / "sub").chmod(mode)
        path.chmod(mode)
    if os.geteuid() == 0:
        write(root / "mode 0" / "file", b"inside").parent.chmod(0)
    level = root
    for _ in range(150):
        level = level / "deep"
        level.mkdir()
    write(level / "file", b"at the bottom")


def _make_times(root: Path) -> None:
    root.mkdir()
    for name, mtime_ns in (
        ("1910", -1_893_456_000_123_456_789),
        ("before 1970", -1),
        ("1970", 0),
        ("one nanosecond", 1),
        ("2038", (1 << 31) * 1_000_000_000 + 5),
        ("2106", (1 << 32) * 1_000_000_000 + 7),
        ("2200", 7_258_118_400_987_654_321),
    ):
        write(root / name, name.encode())
        (root / f"{name} symlink").symlink_to("nowhere")
        os.mkfifo(root / f"{name} fifo")
        write(root / f"{name} directory" / "file", b"inside")
        for kind in ("", " symlink", " fifo", " directory"):
            os.utime(root / (name + kind), ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def make_deep(root: Path, levels: int = 20, name: bytes = b"\xfflong " * 36) -> bytes:
    """Make a chain of directories whose path is far longer than a system call takes; return the path below root."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    path = b""
    for level in range(levels):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
        path += b"/" + name
        file = os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=descriptor)
        os.write(file, b"level %d" % level)
        os.close(file)
    try:
        os.symlink(b"file", b"symlink", dir_fd=descriptor)
        os.link(b"file", b"linked", src_dir_fd=descriptor, dst_dir_fd=descriptor)
        os.mkfifo(b"fifo", dir_fd=descriptor)
        os.mkdir(b"directory", 0o750, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    return path[1:]


# Comparing.


def rsync_differences(source: Path, destination: Path) -> str:
    """Return what rsync would have to do to make one tree like the other, owners, links and attributes included."""
    rsync = program("rsync")
    done = subprocess.run(
        [rsync, "-aHAXSn", "--checksum", "--delete", "--itemize-changes", f"{source}/", f"{destination}/"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode("utf-8", "surrogateescape") + (f"rsync: {done.returncode}" if done.returncode else "")


def facts(root: Path) -> Facts:
    """Return all that can be known of each entry of a tree by its path: bytes, attributes, times in ns, link groups.

    Unlike rsync it sees nanoseconds, and takes paths of any length.
    """
    found: Facts = {}
    inodes: dict[tuple[int, int], bytes] = {}
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _collect(descriptor, b".", b"", found, inodes)
    finally:
        os.close(descriptor)
    return found


def _collect(parent: int, name: bytes, path: bytes, found: Facts, inodes: dict[tuple[int, int], bytes]) -> None:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    mode = status.st_mode
    exact = b"/proc/self/fd/%d/%s" % (parent, name)
    detail: object = None
    if stat.S_ISREG(mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
        with open(descriptor, "rb") as file:
            detail = (status.st_size, hashlib.sha256(file.read()).hexdigest())
    elif stat.S_ISLNK(mode):
        detail = os.readlink(name, dir_fd=parent)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        detail = status.st_rdev
    xattrs = {key: os.getxattr(exact, key, follow_symlinks=False) for key in os.listxattr(exact, follow_symlinks=False)}
    group = path if stat.S_ISDIR(mode) else inodes.setdefault((status.st_dev, status.st_ino), path)
    found[path] = (mode, status.st_uid, status.st_gid, status.st_mtime_ns, detail, sorted(xattrs.items()), group)
    if stat.S_ISDIR(mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            for child in sorted(map(os.fsencode, os.listdir(descriptor))):
                _collect(descriptor, child, path + b"/" + child if path else child, found, inodes)
        finally:
            os.close(descriptor)


def differences(source: Path, destination: Path) -> list[str]:
    """Return what differs between two trees, one line an entry."""
    left, right = facts(source), facts(destination)
    return [
        f"{path!r}: {left.get(path)} | {right.get(path)}"
        for path in sorted({*left, *right})
        if left.get(path) != right.get(path)
    ]


def contents(root: Path) -> dict[str, bytes]:
    """Return the bytes of each regular file of a tree by its path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def leftovers(root: Path) -> list[str]:
    """Return the temporary files below a directory."""
    return [str(path) for path in root.rglob(".backuptool-*")]


# File systems.


@contextmanager
def mounted(path: Path, size: str = "1m") -> Iterator[Path]:
    """Mount a small file system in memory; skip the test where that is not allowed."""
    done = subprocess.run(
        [program("mount"), "-t", "tmpfs", "-o", f"size={size},mode=0755", "none", str(path)],
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode(errors='replace').strip()}")
    try:
        yield path
    finally:
        subprocess.run([program("umount"), str(path)], check=True)


def remove_sockets(root: Path) -> None:
    """Remove all sockets, which tar does not take."""
    for path in list(root.rglob("*")):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()

"""States as files: what is written over, and what a power cut may leave of it."""

import os

import pytest

import cerebro
from cerebro.ids import digest_bytes
from cerebro.storage.checkpoints import Checkpoints


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "states")


def write(checkpoints, content):
    state_digest = digest_bytes(content)
    checkpoints.write(memoryview(content), state_digest)
    return state_digest


def inode(checkpoints, state_digest):
    return checkpoints.path(state_digest).stat().st_ino


def test_the_file_of_a_spare_state_is_written_over_by_one_of_its_size(checkpoints):
    one, other = write(checkpoints, b"a state"), write(checkpoints, b"a longer state")
    number = inode(checkpoints, one)
    checkpoints.spare(other)
    checkpoints.spare(one)
    after = write(checkpoints, b"7 bytes")
    assert inode(checkpoints, after) == number
    assert checkpoints.digests() == {other, after}
    assert checkpoints.read(after) == b"7 bytes"


@pytest.mark.parametrize("content", [b"short", b"a state that is longer"])
def test_a_file_of_another_size_is_written_over_rather_than_many_kept(checkpoints, content):
    digests = [write(checkpoints, b"state %d" % number) for number in range(5)]
    numbers = [inode(checkpoints, each) for each in digests]
    for state_digest in digests:
        checkpoints.spare(state_digest)
    assert checkpoints.digests() == {*digests[1:]}
    after = write(checkpoints, content)
    assert inode(checkpoints, after) == numbers[1]
    assert checkpoints.read(after) == content


def test_a_spare_state_that_is_written_again_is_spare_no_more(checkpoints):
    other, again = write(checkpoints, b"other"), write(checkpoints, b"again")
    checkpoints.spare(again)
    checkpoints.spare(other)
    write(checkpoints, b"again")
    write(checkpoints, b"new")
    checkpoints.delete_spare()
    assert checkpoints.digests() == {again, digest_bytes(b"new")}
    assert checkpoints.read(again) == b"again"


def test_a_large_file_is_deleted_rather_than_kept(checkpoints, monkeypatch):
    monkeypatch.setattr("cerebro.storage.checkpoints._SPARE_BYTES", 7)
    small, large = write(checkpoints, b"7 bytes"), write(checkpoints, b"8 bytes!")
    checkpoints.spare(small)
    checkpoints.spare(large)
    assert checkpoints.digests() == {small}


def test_spare_files_are_gone_at_the_end(checkpoints):
    digests = [write(checkpoints, b"state %d" % number) for number in range(9)]
    for state_digest in digests[1:]:
        checkpoints.spare(state_digest)
    checkpoints.delete_spare()
    assert checkpoints.digests() == {digests[0]}


def test_a_state_whose_new_name_a_power_cut_took_away_is_known_by_its_content(checkpoints):
    old, new, unneeded = digest_bytes(b"old"), write(checkpoints, b"new"), write(checkpoints, b"of nobody")
    checkpoints.path(new).rename(checkpoints.path(old))
    checkpoints.give_names({new})
    assert checkpoints.digests() == {new, unneeded}
    assert checkpoints.read(new) == b"new"


def test_collecting_keeps_a_needed_state_that_lies_under_another_name(checkpoints):
    new = write(checkpoints, b"new")
    write(checkpoints, b"of nobody")
    checkpoints.path(new).rename(checkpoints.path(digest_bytes(b"old")))
    checkpoints.collect({new})
    assert checkpoints.digests() == {new}
    assert checkpoints.read(new) == b"new"


def test_an_unneeded_file_that_cannot_be_read_does_not_keep_others_from_their_names(checkpoints):
    new = write(checkpoints, b"new")
    checkpoints.path(new).rename(checkpoints.path("f" * 64))
    checkpoints.path("0" * 64).mkdir()
    checkpoints.give_names({new})
    assert checkpoints.read(new) == b"new"


def test_what_was_being_written_over_when_the_power_went_is_taken_for_nothing(checkpoints):
    lost, torn = digest_bytes(b"lost"), digest_bytes(b"torn")
    write(checkpoints, b"a state")
    checkpoints.path(torn).write_bytes(b"lo")
    before = checkpoints.digests()
    checkpoints.give_names({lost})
    assert checkpoints.digests() == before
    with pytest.raises(cerebro.StoreError, match="is missing"):
        checkpoints.read(lost)


def test_a_spare_file_that_cannot_be_written_over_is_deleted(checkpoints, monkeypatch):
    spare, needed = write(checkpoints, b"spare"), write(checkpoints, b"needed")
    checkpoints.spare(spare)

    def fail(descriptor):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr("cerebro.storage.checkpoints._sync_content", fail)
    with pytest.raises(cerebro.StoreError, match="cannot write"):
        write(checkpoints, b"large")
    assert checkpoints.digests() == {needed}

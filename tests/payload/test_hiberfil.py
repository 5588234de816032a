"""hiberfil.sys: which headers mean that a Windows still owns its volumes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.verify.scenarios import SCENARIOS
from payload.formats.hiberfil import HEADER_LENGTH, HIBERFIL_NAME, HibernationState, hibernation_state

_REST = b"\x01\0\0\0" * 100


@pytest.mark.parametrize(
    ("head", "state", "owned"),
    [
        (b"HIBR" + _REST, HibernationState.SAVED, True),
        (b"hibr" + _REST, HibernationState.SAVED, True),
        (b"HIBR", HibernationState.SAVED, True),
        (b"RSTR" + _REST, HibernationState.RESUMING, True),
        (b"rstr" + _REST, HibernationState.RESUMING, True),
        (b"link" + _REST, HibernationState.ELSEWHERE, True),
        (b"wake" + _REST, HibernationState.RESUMED, False),
        (b"WAKE" + _REST, HibernationState.RESUMED, False),
        (bytes(HEADER_LENGTH), HibernationState.EMPTY, False),
        (b"", HibernationState.EMPTY, False),
        (b"HIB", HibernationState.UNKNOWN, False),
        (b" HIBR", HibernationState.UNKNOWN, False),
        (bytes(4) + _REST, HibernationState.UNKNOWN, False),
    ],
)
def test_states(head: bytes, state: HibernationState, owned: bool) -> None:
    assert hibernation_state(head) is state
    assert state.owned is owned


@given(st.binary(max_size=64))
def test_garbage_never_raises_and_only_a_signature_owns(head: bytes) -> None:
    state = hibernation_state(head)
    assert state.owned == (head[:4].lower() in (b"hibr", b"rstr", b"link"))


def test_the_boot_tests_hibernated_windows_is_one_here_as_well() -> None:
    """ntfs-3g.probe refuses that very file (tests/payload/test_linux_ntfs.py): both environments follow one policy."""
    tree = next(scenario for scenario in SCENARIOS if scenario.name == "hibernated").tree()
    file = next(file for file in tree.files if file.path == HIBERFIL_NAME)
    assert hibernation_state(file.content[:HEADER_LENGTH]).owned

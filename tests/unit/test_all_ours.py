"""No method, slot or attribute of asyncio's C types is reachable by name on ours.

asyncio's own would work on the base part of the object, which is not where ours keep their state.
"""

from __future__ import annotations

import asyncio

import pytest

import hotloop
from hotloop import _core

# What every class has from object or for itself.
FROM_OBJECT = {
    name for name in dir(object) if name not in ("__init__", "__repr__", "__del__", "__new__")
}
THEIRS = {asyncio.Future, asyncio.Task, asyncio.Handle, asyncio.TimerHandle}
for _theirs in list(THEIRS):
    THEIRS |= {cls for cls in _theirs.__mro__ if cls is not object}

NOT_STATE = {"__dict__", "__weakref__", "__slots__", "__firstlineno__", "__static_attributes__"}
# asyncio.Handle is a Python class; these read nothing but the attributes that are ours.
IN_PYTHON = {
    (cls, name)
    for cls in (hotloop.Handle, hotloop.TimerHandle)
    for name in ("__repr__", "_repr_info")
}


def owner_of(cls, name):
    for base in cls.__mro__:
        if name in base.__dict__:
            return base
    return None


def names(cls, other):
    return sorted(set(dir(cls)) | set(dir(other)))


CASES = [
    (ours, name)
    for ours, theirs in (
        (hotloop.Future, asyncio.Future),
        (hotloop.Task, asyncio.Task),
        (hotloop.Handle, asyncio.Handle),
        (hotloop.TimerHandle, asyncio.TimerHandle),
    )
    for name in names(ours, theirs)
    if name not in FROM_OBJECT and name not in NOT_STATE and (ours, name) not in IN_PYTHON
]


@pytest.mark.parametrize(
    ("cls", "name"), CASES, ids=[f"{cls.__name__}.{name}" for cls, name in CASES]
)
def test_defined_by_hotloop(cls, name):
    owner = owner_of(cls, name)
    assert owner is not None, f"{name} is missing"
    assert owner not in THEIRS, f"{cls.__name__}.{name} is asyncio's own"
    assert owner.__module__.startswith("hotloop")


@pytest.mark.parametrize("cls", [hotloop.Future, hotloop.Task], ids=lambda c: c.__name__)
def test_nothing_asyncio_has_is_missing(cls):
    theirs = getattr(asyncio, cls.__name__)
    assert set(dir(theirs)) <= set(dir(cls))


@pytest.mark.parametrize("name", ["Future", "Task", "Handle", "TimerHandle"])
def test_same_signatures(name):
    import inspect

    ours, theirs = getattr(hotloop, name), getattr(asyncio, name)
    for attribute in dir(theirs):
        if attribute.startswith("__"):
            continue
        method = getattr(theirs, attribute)
        if not callable(method):
            assert not callable(getattr(ours, attribute)), attribute
            continue
        assert callable(getattr(ours, attribute)), attribute
        try:
            expected = inspect.signature(method)
            got = inspect.signature(getattr(ours, attribute))
        except ValueError:
            continue
        for parameter in expected.parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                assert parameter.name in got.parameters, attribute


@pytest.mark.parametrize("name", ["Future", "Task"])
def test_the_types_cannot_be_patched(name):
    """As asyncio's: what C code calls without a look-up stays what it is."""
    for cls in (getattr(asyncio, name), getattr(hotloop, name)):
        for attribute in ("x", "_state", "set_result"):
            old = cls.__dict__.get(attribute)
            try:
                setattr(cls, attribute, old)
            except TypeError:
                continue
            if old is None:
                delattr(cls, attribute)
            raise AssertionError(f"{cls}.{attribute} could be set")


def test_the_core_exports_its_types():
    for name in ("EventLoop", "Future", "Task", "Handle", "TimerHandle"):
        assert getattr(_core, name) is getattr(hotloop, name)

"""Types and shapes of the library's own calls, checked while tests run.

`--jaxtyping-packages` decorates every function of the package, nested ones anew at each call.
Checking all calls was a third of the tests' time: here a function's calls 1, 8, 64 ... in a test are. With
SUBSCAPE_CHECK_EVERY_CALL=1, as in CI, all of them are.
"""

import dataclasses
import functools
import inspect
from collections import Counter

import jaxtyping

CHECKED = frozenset(8**k for k in range(12))
calls_in_this_test = Counter()
_every_call = jaxtyping.jaxtyped


def sometimes(decorated=None, *, typechecker):
    """Stands in for `jaxtyping.jaxtyped`, with what its import hook passes."""
    if decorated is None:
        return functools.partial(sometimes, typechecker=typechecker)
    if inspect.isclass(decorated):
        start = decorated.__init__
        if dataclasses.is_dataclass(decorated) and not hasattr(start, "checked_sometimes"):
            decorated.__init__ = sometimes(start, typechecker=typechecker)
        return decorated
    if isinstance(decorated, classmethod | staticmethod):
        return type(decorated)(sometimes(decorated.__func__, typechecker=typechecker))
    if not inspect.isfunction(decorated):
        return _every_call(decorated, typechecker=typechecker)
    code, checked = decorated.__code__, None

    @functools.wraps(decorated)
    def call(*args, **named):
        nonlocal checked
        calls_in_this_test[code] += 1
        if calls_in_this_test[code] not in CHECKED or jaxtyping.config.jaxtyping_disable:
            return decorated(*args, **named)
        checked = checked or _every_call(decorated, typechecker=typechecker)
        return checked(*args, **named)

    call.checked_sometimes = True
    return call


def install():
    """Has to run before the package is imported."""
    jaxtyping.jaxtyped = sometimes

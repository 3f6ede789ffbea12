"""House rules for the code that no linter knows, checked on the parsed source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final, TypeGuard

from twisted.trial.unittest import SynchronousTestCase

from tests.quality.checkout import modules, texts

MODULE_LINES: Final = 400
HARD_STOP: Final = 600
FUNCTION_LINES: Final = 60

LONGER: Final[dict[str, str]] = {}
"""Modules of the package over 400 lines, each with the reason why it is one job all the same."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def length(function: Function) -> int:
    """The lines of C{function} without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None and first.end_lineno is not None
    docstring = first.end_lineno - first.lineno + 1 if documented and first.end_lineno else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of C{function}, without those of functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def caught(handler: ast.ExceptHandler) -> set[str]:
    """The names of the exceptions that C{handler} takes; a bare one takes them all."""
    if handler.type is None:
        return {"BaseException"}
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(one).rpartition(".")[2] for one in types}


def always_raises(handler: ast.ExceptHandler) -> bool:
    """Whether C{handler} ends by raising, so that it can't swallow anything."""
    return isinstance(handler.body[-1], ast.Raise)


def swallows_cancellation(block: ast.Try) -> bool:
    """Whether a cancelled C{await} in C{block} would end in one of its broad handlers."""
    if not any(isinstance(node, ast.Await) for statement in block.body for node in ast.walk(statement)):
        return False
    for handler in block.handlers:
        names = caught(handler)
        if "CancelledError" in names:
            return False
        if names & {"Exception", "BaseException"}:
            return not always_raises(handler)
    return False


def is_log_call(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether C{node} writes a log record: by convention a logger is called C{log} or C{_log}."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return ast.unparse(node.func.value).rpartition(".")[2] in {"log", "_log"}


class LengthTests(SynchronousTestCase):
    """One job each: what grows past its limit has two."""

    def test_modules(self) -> None:
        """A module of the package has at most 400 lines, or a reason in LONGER; nothing has over 600."""
        lines = {name: text.count("\n") for name, text in texts().items() if name.endswith(".py")}
        long = {
            name
            for name, count in lines.items()
            if count > MODULE_LINES and name.startswith("pipeops_agent/")
        }
        self.assertEqual(sorted(long), sorted(LONGER))
        self.assertEqual([name for name, count in lines.items() if count > HARD_STOP], [])

    def test_functions(self) -> None:
        """A function has at most 60 lines, its docstring not counted."""
        long = [
            f"{name}:{function.lineno} {function.name}"
            for name, tree in modules().items()
            for function in functions(tree)
            if length(function) > FUNCTION_LINES
        ]
        self.assertEqual(long, [])


class CancellationTests(SynchronousTestCase):
    """Twisted's C{CancelledError} is an ordinary exception: a broad handler would swallow it."""

    def test_package_lets_it_pass(self) -> None:
        """In the package, C{except Exception} around an C{await} comes after C{except CancelledError}."""
        swallowing = [
            f"{name}:{node.lineno}"
            for name, tree in modules().items()
            if name.startswith("pipeops_agent/")
            for function in functions(tree)
            for node in own_nodes(function)
            if isinstance(node, ast.Try) and swallows_cancellation(node)
        ]
        self.assertEqual(swallowing, [])

    def test_check_sees_a_swallower(self) -> None:
        """The check itself knows what swallows and what does not."""
        around = "async def f():\n try:\n  await x\n except {}:\n  {}\n"
        cases = {
            around.format("Exception", "pass"): True,
            around.format("(ValueError, Exception)", "log()"): True,
            around.format("Exception as e", "raise Other from e"): False,
            around.format("ValueError", "pass"): False,
            around.format("defer.CancelledError", "raise\n except Exception:\n  pass"): False,
            around.replace("await x", "x()").format("Exception", "pass"): False,
        }
        for source, expected in cases.items():
            block = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Try))
            self.assertEqual(swallows_cancellation(block), expected, source)


class SecretTests(SynchronousTestCase):
    """A secret's text leaves its wrapper in few places."""

    def test_no_secret_is_revealed_into_a_message(self) -> None:
        """C{reveal()} never stands in what is raised or in an argument of a logger."""
        shown = [
            f"{name}:{node.lineno}"
            for name, tree in modules().items()
            if name.startswith("pipeops_agent/")
            for node in ast.walk(tree)
            if isinstance(node, ast.Raise) or is_log_call(node)
            if any(isinstance(part, ast.Attribute) and part.attr == "reveal" for part in ast.walk(node))
        ]
        self.assertEqual(shown, [])


class TestDocumentationTests(SynchronousTestCase):
    """A test says what it shows."""

    def test_every_test_has_a_docstring(self) -> None:
        """Each test method's docstring states the behaviour."""
        silent = [
            f"{name}:{function.lineno} {function.name}"
            for name, tree in modules().items()
            if name.startswith("tests/") and "/test_" in name
            for function in functions(tree)
            if function.name.startswith("test_") and not ast.get_docstring(function)
        ]
        self.assertEqual(silent, [])

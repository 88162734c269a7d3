import ast
import inspect

from cloudmanager.core import errors
from cloudmanager.core.errors import CloudManagerError


def _all() -> list[type[CloudManagerError]]:
    return [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, CloudManagerError)]


def test_every_error_has_a_code_and_a_title_of_its_own() -> None:
    classes = _all()
    assert len({each.code for each in classes}) == len(classes)
    assert len({each.title for each in classes}) == len(classes)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn = {"CloudManagerError": 0}
    for line in (errors.__doc__ or "").splitlines():
        indent, branch, name = line.partition("── ")
        if branch:
            drawn[name.split()[0]] = (len(indent) + 3) // 4
    depths = {each.__name__: len(each.__mro__) - len(CloudManagerError.__mro__) for each in _all()}
    assert drawn == depths


def test_a_retriable_flag_can_be_set_for_one_error() -> None:
    assert errors.Throttled("later").retriable
    assert not errors.Throttled("never", retriable=False).retriable
    assert not errors.ServerFailed("broken").retriable


def test_errors_import_nothing_of_the_project() -> None:
    imported = [node for node in ast.walk(ast.parse(inspect.getsource(errors))) if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in imported} == {"typing"}

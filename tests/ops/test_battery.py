"""What holds for every operator, asked of every entry of ``CASES``; what is special to one is in its own file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only

from tests.ops.calls import (
    changed,
    flat,
    grad_of,
    identical_at_thread_counts,
    leaves,
    mapped,
    places,
    record,
    results_and_gradients,
    wanting,
)
from tests.ops.cases import CASES
from tests.ops.draw import DTYPES, Arguments, Case
from vlmadapt import ops
from vlmadapt.errors import InputError, VlmadaptError

NOT_OPERATORS = {"PLaplacianOutput", "build_info", "use_reference"}
ODD = [1, 3, 5, 7, 13, 17, 33]
Results = tuple[list[Tensor], list[Tensor]]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
EVERY = [pytest.param(case, id=name) for name, case in CASES.items()]
CHECKED = [pytest.param(case, id=name) for name, case in CASES.items() if not case.plain]
FIRST = {case.function: name for name, case in reversed(CASES.items())}
COMPILED = [pytest.param(CASES[name], id=name) for name in FIRST.values() if CASES[name].compiles]
DIFFERENTIABLE = [
    pytest.param(case, id=name)
    for name, case in CASES.items()
    if any(x.requires_grad for x in flat(case.function(**case.draw())))
]


def equal(ours: Tensor, expected: Tensor) -> None:
    assert ours.dtype == expected.dtype and torch.equal(ours, expected)


def same(case: Case) -> Callable[[Tensor, Tensor], None]:
    """Bit for bit, but where torch's products take part."""
    return close_to(1e-5) if case.blas else equal


def close_to(tolerance: float) -> Callable[[Tensor, Tensor], None]:
    """Relative to the largest element, at least 1."""

    def close(x: Tensor, wanted: Tensor) -> None:
        largest = wanted.abs().nan_to_num(posinf=0).max().item() if wanted.numel() else 0
        torch.testing.assert_close(x, wanted, rtol=tolerance, atol=tolerance * max(1, largest))

    return close


def assert_all(compare: Callable[[Tensor, Tensor], None], ours: Results, expected: Results) -> None:
    for x, wanted in zip([*ours[0], *ours[1]], [*expected[0], *expected[1]], strict=True):
        compare(x, wanted)


def assert_equals_reference(case: Case, arguments: Arguments, dtype: torch.dtype) -> None:
    ours = results_and_gradients(case.function, arguments)
    with ops.use_reference():
        expected = results_and_gradients(case.function, arguments)
    assert_all(close_to(TOLERANCE[dtype]), ours, expected)


def strided(tensor: Tensor) -> Tensor:
    """The same numbers, two apart."""
    twin = torch.stack([tensor.detach()] * 2, -1)[..., 0]
    return twin.requires_grad_(tensor.requires_grad)


def columns_first(tensor: Tensor) -> Tensor:
    """The same numbers, as a transposed matrix holds them; arithmetic keeps that layout."""
    if tensor.dim() < 2:
        return tensor
    twin = tensor.detach().transpose(-1, -2).contiguous().transpose(-1, -2)
    return twin.requires_grad_(tensor.requires_grad)


def test_every_operator_has_cases() -> None:
    names = {name.split(",")[0].split(".")[0] for name in CASES}
    for name in set(ops.__all__) - NOT_OPERATORS:
        stem = name.removesuffix("_reference")  # a reference is what its operators are compared with
        assert any(known == name or (stem != name and known.startswith(stem)) for known in names), name


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_sizes_equal_the_reference(case: Case, dtype: torch.dtype) -> None:
    for shift in range(len(ODD)):
        sizes = {name: ODD[(i + shift) % len(ODD)] for i, name in enumerate(case.sizes)}
        assert_equals_reference(case, case.draw(dtype, **sizes), dtype)


@pytest.mark.parametrize("case", EVERY)
def test_empty_inputs_equal_the_reference(case: Case) -> None:
    for names in (*((name,) for name in case.empty), case.empty):
        sizes = dict.fromkeys(names, 0)
        assert_equals_reference(case, case.draw(torch.float64, **sizes), torch.float64)


@pytest.mark.parametrize("case", EVERY)
def test_non_contiguous_inputs_and_gradients(case: Case) -> None:
    arguments = case.draw(torch.float64)
    expected = results_and_gradients(case.function, arguments)
    for layout in (strided, columns_first):
        assert_all(same(case), results_and_gradients(case.function, mapped(arguments, layout)), expected)
    assert_all(same(case), results_and_gradients(case.function, arguments, lambda x: strided(grad_of(x))), expected)


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_gradcheck(case: Case) -> None:
    arguments = case.draw(torch.float64)
    inputs = leaves(arguments)

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        known = {id(x): new for x, new in zip(inputs, given, strict=True)}
        results = flat(case.function(**mapped(arguments, lambda x: known.get(id(x), x))))
        return tuple(torch.where(x.isinf(), 0, x) for x in results if x.requires_grad)

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_a_single_wanted_gradient_equals_that_of_all(case: Case) -> None:
    _, expected = results_and_gradients(case.function, case.draw())
    for only, gradient in enumerate(expected):
        _, ours = results_and_gradients(case.function, wanting(case, only))
        assert_all(same(case), (ours, []), ([gradient], []))


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_second_derivatives_are_right_or_refused(case: Case) -> None:
    arguments = case.draw(torch.float64)
    results = [x for x in flat(case.function(**arguments)) if x.requires_grad]
    first = torch.autograd.grad([x.square().nan_to_num(posinf=0).sum() for x in results], leaves(arguments),
                                create_graph=True, allow_unused=True)  # fmt: skip
    wanted = [x for x in first if x is not None and x.requires_grad]
    if case.twice:
        torch.autograd.grad([x.sum() for x in wanted], leaves(arguments), allow_unused=True)
    else:
        with pytest.raises(RuntimeError, match="differentiable once"):
            torch.autograd.grad([x.sum() for x in wanted], leaves(arguments), allow_unused=True)


@pytest.mark.parametrize("case", COMPILED)
def test_compiles_into_one_graph(case: Case) -> None:
    arguments = case.draw()
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    expected = results_and_gradients(case.function, arguments)
    assert_all(torch.testing.assert_close, results_and_gradients(compiled, arguments), expected)


@pytest.mark.parametrize("case", CHECKED)
def test_autocast_computes_in_float32(case: Case) -> None:
    """As without autocast; and 16-bit inputs as the same numbers in float32, but for the gradients' last rounding."""

    def function(**arguments: Any) -> Any:
        with torch.autocast(torch.get_default_device().type, torch.bfloat16):
            return case.function(**arguments)

    def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.detach().to(dtype).requires_grad_(tensor.requires_grad) if tensor.is_floating_point() else tensor

    arguments = case.draw()
    assert_all(same(case), results_and_gradients(function, arguments), results_and_gradients(case.function, arguments))
    half = mapped(arguments, lambda x: cast(x, torch.bfloat16))
    results, gradients = results_and_gradients(function, half)
    exact = results_and_gradients(case.function, mapped(half, lambda x: cast(x, torch.float32)))
    assert_all(close_to(1e-5), (results, []), (exact[0], []))
    assert_all(close_to(1e-2), ([], [x.float() for x in gradients]), ([], exact[1]))


@pytest.mark.parametrize("case", EVERY)
def test_results_are_the_same_at_every_thread_count(case: Case) -> None:
    arguments = case.draw(torch.float32, **case.large)

    def run() -> list[Tensor]:
        results, gradients = results_and_gradients(case.function, arguments)
        return [*results, *gradients]

    identical_at_thread_counts(run, same(case))


@pytest.mark.parametrize("case", EVERY)
def test_nan_does_not_pass_silently(case: Case) -> None:
    """Where the first element of any float is NaN, the result shows it or the call is refused."""
    arguments = case.draw()
    assert not case.shows_nan(flat(case.function(**arguments)))
    for name, number, value in places(arguments):
        if isinstance(value, Tensor) and value.is_floating_point():
            spoilt = value.detach().clone()
            spoilt.view(-1)[0] = torch.nan
            try:
                results = flat(case.function(**changed(arguments, name, number, spoilt)))
            except VlmadaptError:
                continue
            assert case.shows_nan(results), f"{name} {number}"


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_nan_in_the_upstream_gradient_is_passed_on(case: Case) -> None:
    arguments = case.draw()

    def spoilt(x: Tensor) -> Tensor:
        grad = grad_of(x)
        grad.view(-1)[0] = torch.nan
        return grad

    _, gradients = results_and_gradients(case.function, arguments, spoilt)
    assert any(x.isnan().any() for x in gradients)


def elsewhere(value: Any) -> Any:
    """A tensor, or an object that holds tensors, on "meta"."""
    if isinstance(value, Tensor):
        return value.detach().to("meta")
    moved = copy.copy(value)
    for name, part in vars(value).items():
        if isinstance(part, Tensor):
            setattr(moved, name, part.to("meta"))
    return moved


def assert_one_sentence(error: VlmadaptError, named: set[str]) -> None:
    message = str(error)
    assert message.endswith(".") and "\n" not in message and any(name in message for name in named), message


@pytest.mark.parametrize("case", CHECKED)
def test_a_tensor_on_another_device_is_named(case: Case) -> None:
    arguments = case.draw()
    for name, number, value in places(arguments):
        if isinstance(value, Tensor | ops.PreparedCache | ops.Relation):
            shown = name if number is None else f"{name}[{number}]"
            with pytest.raises(VlmadaptError, match="meta") as caught:
                case.function(**changed(arguments, name, number, elsewhere(value)))
            # The first tensor of a call is what the others are compared with.
            assert_one_sentence(caught.value, {shown, "there are no kernels for meta tensors"})


@pytest.mark.parametrize("case", CHECKED)
def test_bad_types_and_shapes_are_refused_in_a_sentence(case: Case) -> None:
    """Whatever a tensor becomes, the call means what the reference says or raises InputError."""
    arguments = case.draw()
    for name, number, value in places(arguments):
        if not isinstance(value, Tensor):
            continue
        value = value.detach()
        with pytest.raises(InputError) as caught:
            case.function(**changed(arguments, name, number, value.to(torch.complex64)))
        assert_one_sentence(caught.value, set(arguments))
        others = [value.long(), value.bool()]
        others += [value.double()] if value.is_floating_point() else [value.float()]
        others += [value.unsqueeze(0), value.unsqueeze(-1), value.flatten(), value.sum()]
        others += [torch.cat([value, value.narrow(d, 0, 1)], d) for d in range(value.dim())]
        others += [value.narrow(d, 0, value.shape[d] - 1) for d in range(value.dim())]
        for other in others:
            if other.dtype != value.dtype or other.shape != value.shape:
                assert_means_the_same_or_refused(case, changed(arguments, name, number, other), name)


def others_than(value: Any) -> list[Any]:
    """What people pass in the place of ``value``."""
    found: list[Any] = ["x", object(), {}, 3]
    if isinstance(value, Tensor):
        found += [value.detach().float().numpy(), value.tolist(), None]
        found += [value.detach().to_sparse()] if value.dim() == 2 else []
    return [*found, value[0], [None] * len(value)] if isinstance(value, list) else found


@pytest.mark.parametrize("case", CHECKED)
def test_another_kind_of_argument_is_named_or_means_something(case: Case) -> None:
    arguments = case.draw()
    lists = [(name, None, value) for name, value in arguments.items() if isinstance(value, list)]
    for name, number, value in (*places(arguments), *lists):
        for other in others_than(value):
            try:
                case.function(**changed(arguments, name, number, other))
            except VlmadaptError as error:
                assert_one_sentence(error, set(arguments))


def assert_means_the_same_or_refused(case: Case, arguments: Arguments, name: str) -> None:
    try:
        results = flat(case.function(**arguments))
    except InputError as error:
        assert_one_sentence(error, set(arguments))
        return
    with ops.use_reference():
        expected = flat(case.function(**arguments))
    torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-4, msg=lambda text: f"{name}: {text}")


def distinct() -> list[Any]:
    """One call of each compiled operator for each set of arguments that are missing or switched on."""
    found: dict[Any, Any] = {}
    for func, args in record(CASES.values()):
        kinds = str([value if isinstance(value, bool) else value is None for value in args])
        found.setdefault((func, kinds), (func, args))
    return [pytest.param(*call, id=f"{call[0]._schema.name}-{i}") for i, call in enumerate(found.values())]


@pytest.mark.parametrize(("func", "args"), distinct())
def test_opcheck(func: Any, args: tuple[Any, ...]) -> None:
    """An operator that computes gradients has none itself, nor do its arguments keep theirs."""
    options: dict[str, Any] = {}
    if func._schema.name.endswith("_backward"):
        options["test_utils"] = ("test_schema", "test_faketensor")
    # A tensor in the middle of a graph would be gone back through twice.
    args = tree_map_only(Tensor, lambda x: x.detach().requires_grad_(x.requires_grad), args)
    torch.library.opcheck(func, args, **options)


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_a_forward_derivative_is_right_or_refused(case: Case) -> None:
    """Never the zeros that torch takes for an operator which knows none."""
    if case.plain:
        pytest.skip("torch's own functions")
    arguments = case.draw(torch.float64)
    for name in [name for name, value in arguments.items() if isinstance(value, Tensor) and value.requires_grad]:
        plain = {key: value.detach() if isinstance(value, Tensor) else value for key, value in arguments.items()}
        direction = torch.randn_like(plain[name])
        with forward_ad.dual_level():
            try:
                found = case.function(**{**plain, name: forward_ad.make_dual(plain[name], direction)})
            except (InputError, NotImplementedError) as error:
                assert "forward-mode tangent" in str(error) or "forward mode AD" in str(error)
                continue
            tangents = [forward_ad.unpack_dual(x).tangent for x in flat(found) if x.is_floating_point()]
        near = {**plain, name: plain[name] + 1e-6 * direction}
        before, after = (flat(case.function(**each)) for each in (plain, near))
        for x, y, tangent in zip(before, after, tangents, strict=True):
            assert tangent is not None
            torch.testing.assert_close(tangent, (y - x) / 1e-6, rtol=1e-3, atol=1e-3)

"""Explicit Runge-Kutta methods as frozen Butcher tableaus.

To add a solver, write its table here and name it in `TABLEAUS`. A table is checked when it
is made (shapes, c = row sums of a, sum b = 1, sum of the error weights = 0, dense output ends in b); the order
conditions are tested in tests/core/test_tableaus.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from symadj_core.registry import Registry
from symadj_core.solvers.moving import Moving, Time, moving, value_of

_TOLERANCE = 2e-15


def _check(condition: bool, name: str, what: str) -> None:
    if not condition:
        raise ValueError(f"tableau {name!r}: {what}")


@dataclass(frozen=True)
class ButcherTableau:
    """Coefficients of one explicit Runge-Kutta method.

    Attributes:
        name: the name the registry knows it by.
        order: order of the solution that is propagated.
        a: row i holds the i weights a_i0 .. a_i,i-1 (row 0 is empty).
        b: the s weights of the solution.
        c: the s nodes, in fractions of a step.
        error: the s weights of the error estimate (b minus the embedded b), or None for a fixed-step method.
        error_order: order of the embedded solution, which sets the exponent of the step size controller.
        dense: polynomial weights of the method's own interpolant. Row i holds the coefficients of theta,
            theta^2, ... of b_i(theta), 0 <= theta <= 1, for each stage and one more row for the derivative at
            the end of the step. None means the cubic Hermite interpolant, which has order min(order, 3).

    Raises:
        ValueError: where a table contradicts itself.
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    error: tuple[float, ...] | None = None
    error_order: int = 0
    dense: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        s = len(self.b)
        _check(len(self.a) == s and len(self.c) == s, self.name, "a, b and c differ in length")
        _check(all(len(row) == i for i, row in enumerate(self.a)), self.name, "a is not strictly lower triangular")
        _check(abs(sum(self.b) - 1.0) < _TOLERANCE, self.name, f"b sums to {sum(self.b)!r}, not 1")
        for i, row in enumerate(self.a):
            scale = 1.0 + sum(abs(x) for x in row)
            _check(abs(sum(row) - self.c[i]) < _TOLERANCE * scale, self.name, f"row {i} of a does not sum to c")
        if self.error is not None:
            _check(len(self.error) == s, self.name, "error weights differ from b in length")
            _check(abs(sum(self.error)) < _TOLERANCE, self.name, f"error weights sum to {sum(self.error)!r}")
            _check(0 < self.error_order < self.order + 2, self.name, "error weights need their order")
        if self.dense is not None:
            _check(len(self.dense) == self.stages + 1, self.name, "dense needs a row a stage and one for the end")
            ends = self.dense_weights(1.0)
            wanted = (*self.b[: self.stages], 0.0)
            good = all(abs(value_of(x) - y) < 1e-11 for x, y in zip(ends, wanted, strict=True))
            _check(good, self.name, "dense output does not end in b")

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is the first of the next step (first same as last)."""
        return len(self.b) > 1 and self.b[-1] == 0.0 and self.c[-1] == 1.0 and self.a[-1] == self.b[:-1]

    @cached_property
    def stages(self) -> int:
        """Number of stages that a step evaluates itself: the shared last one of an FSAL method is not counted."""
        return len(self.b) - 1 if self.fsal else len(self.b)

    @cached_property
    def error_weights(self) -> tuple[float, ...]:
        """Error weights of the stages, then of the derivative at the end of the step (0 unless FSAL).

        Raises:
            ValueError: the method has no error estimate.
        """
        if self.error is None:
            raise ValueError(f"{self.name} has no error estimate: use a fixed step, or an adaptive method")
        return self.error if self.fsal else (*self.error, 0.0)

    @cached_property
    def dense_rows(self) -> tuple[tuple[float, ...], ...]:
        """Interpolation polynomials of the stages and of the end derivative (see `dense`)."""
        if self.dense is not None:
            return self.dense
        # Cubic Hermite: y_n, y_{n+1} = y_n + h sum b_i k_i, and the derivatives at both ends.
        rows = [[0.0, 3.0 * b, -2.0 * b] for b in self.b[: self.stages]]
        rows[0] = [rows[0][0] + 1.0, rows[0][1] - 2.0, rows[0][2] + 1.0]
        return (*(tuple(row) for row in rows), (0.0, -1.0, 1.0))

    def dense_weights(self, theta: Time) -> tuple[Time, ...]:
        """Weights b_i(theta) with y(t_n + theta h) = y_n + h sum_i b_i(theta) k_i, the end derivative last."""
        return tuple(_without_constant(row, theta) for row in self.dense_rows)

    def dense_slopes(self, theta: float) -> tuple[float, ...]:
        """The derivatives of `dense_weights` with respect to theta."""
        return tuple(_polynomial([(k + 1) * x for k, x in enumerate(row)], theta) for row in self.dense_rows)


_Number = TypeVar("_Number", float, Tensor)


def _polynomial(coefficients: Sequence[float], x: _Number) -> _Number:
    """sum coefficients[k] x^k."""
    total = 0.0 * x
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


def _without_constant(row: Sequence[float], theta: Time) -> Time:
    """sum row[k] theta^(k+1)."""
    if not isinstance(theta, Moving):
        return _polynomial(row, theta) * theta
    if not any(row):
        return 0.0
    position = theta.value + theta.shift
    return moving(_polynomial(row, theta.value) * theta.value, _polynomial(row, position) * position)


EULER = ButcherTableau("euler", 1, a=((),), b=(1.0,), c=(0.0,))

MIDPOINT = ButcherTableau("midpoint", 2, a=((), (1 / 2,)), b=(0.0, 1.0), c=(0.0, 1 / 2))

HEUN2 = ButcherTableau("heun2", 2, a=((), (1.0,)), b=(1 / 2, 1 / 2), c=(0.0, 1.0))

HEUN3 = ButcherTableau("heun3", 3, a=((), (1 / 3,), (0.0, 2 / 3)), b=(1 / 4, 0.0, 3 / 4), c=(0.0, 1 / 3, 2 / 3))

RK4 = ButcherTableau(
    "rk4",
    4,
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 1 / 2, 1 / 2, 1.0),
)

# Kutta's 3/8 rule; what torchdiffeq calls rk4.
RK4_38 = ButcherTableau(
    "rk4_38",
    4,
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    c=(0.0, 1 / 3, 2 / 3, 1.0),
)

ADAPTIVE_HEUN = ButcherTableau(
    "adaptive_heun",
    2,
    a=((), (1.0,)),
    b=(1 / 2, 1 / 2),
    c=(0.0, 1.0),
    error=(-1 / 2, 1 / 2),
    error_order=1,
)

# Fehlberg, NASA TR R-315 (1969), RK1(2); the second-order solution is propagated.
FEHLBERG2 = ButcherTableau(
    "fehlberg2",
    2,
    a=((), (1 / 2,), (1 / 256, 255 / 256)),
    b=(1 / 512, 255 / 256, 1 / 512),
    c=(0.0, 1 / 2, 1.0),
    error=(-1 / 512, 0.0, 1 / 512),
    error_order=1,
)

# Bogacki and Shampine, Appl. Math. Lett. 2 (1989) 321.
BOSH3 = ButcherTableau(
    "bosh3",
    3,
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    error_order=2,
)

# Dormand and Prince, J. Comput. Appl. Math. 6 (1980) 19; dense output of order 4 by Shampine, Math. Comp. 46
# (1986) 135, in the form of Hairer, Norsett and Wanner, section II.6.
DOPRI5 = ButcherTableau(
    "dopri5",
    5,
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    error_order=4,
    dense=(
        (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
        (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
)


def _product(scale: float, *factors: Sequence[float]) -> tuple[float, ...]:
    """Coefficients of theta, theta^2, ... of scale * prod(factors); each factor lists its powers from 0 up."""
    total = [scale]
    for factor in factors:
        longer = [0.0] * (len(total) + len(factor) - 1)
        for i, x in enumerate(total):
            for j, y in enumerate(factor):
                longer[i + j] += x * y
        total = longer
    return tuple(total[1:])


# Tsitouras, Comput. Math. Appl. 62 (2011) 770, with its own dense output of order 4.
_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
)
TSIT5 = ButcherTableau(
    "tsit5",
    5,
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
        _TSIT5_B,
    ),
    b=(*_TSIT5_B, 0.0),
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    error=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    error_order=4,
    dense=(
        _product(
            -1.0530884977290216,
            (0.0, 1.0),
            (-1.3299890189751412, 1.0),
            (0.7139816917074209, -1.4364028541716351, 1.0),
        ),
        _product(0.1017, (0.0, 0.0, 1.0), (1.2949852507374631, -2.1966568338249754, 1.0)),
        _product(2.490627285651252793, (0.0, 0.0, 1.0), (1.57803468208092486, -2.38535645472061657, 1.0)),
        _product(-16.54810288924490272, (0.0, 0.0, 1.0), (-1.21712927295533244, 1.0), (-0.61620406037800089, 1.0)),
        _product(47.37952196281928122, (0.0, 0.0, 1.0), (-1.203071208372362603, 1.0), (-0.658047292653547382, 1.0)),
        _product(-34.87065786149660974, (0.0, 0.0, 1.0), (-1.2, 1.0), (-2 / 3, 1.0)),
        _product(2.5, (0.0, 0.0, 1.0), (-1.0, 1.0), (-0.6, 1.0)),
    ),
)

# Prince and Dormand, J. Comput. Appl. Math. 7 (1981) 67, RK8(7)13M; dense output of order 6 by Calvo, Montijano
# and Randez, which uses the derivative at the end of the step as well.
_DOPRI8_B = (
    14005451 / 335480064,
    0.0,
    0.0,
    0.0,
    0.0,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
)
_DOPRI8_EMBEDDED = (
    13451932 / 455176623,
    0.0,
    0.0,
    0.0,
    0.0,
    -808719846 / 976000145,
    1757004468 / 5645159321,
    656045339 / 265891186,
    -3867574721 / 1518517206,
    465885868 / 322736535,
    53011238 / 667516719,
    2 / 45,
    0.0,
)
_NO_WEIGHT = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
DOPRI8 = ButcherTableau(
    "dopri8",
    8,
    a=(
        (),
        (1 / 18,),
        (1 / 48, 1 / 16),
        (1 / 32, 0.0, 3 / 32),
        (5 / 16, 0.0, -75 / 64, 75 / 64),
        (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
        (
            29443841 / 614563906,
            0.0,
            0.0,
            77736538 / 692538347,
            -28693883 / 1125000000,
            23124283 / 1800000000,
        ),
        (
            16016141 / 946692911,
            0.0,
            0.0,
            61564180 / 158732637,
            22789713 / 633445777,
            545815736 / 2771057229,
            -180193667 / 1043307555,
        ),
        (
            39632708 / 573591083,
            0.0,
            0.0,
            -433636366 / 683701615,
            -421739975 / 2616292301,
            100302831 / 723423059,
            790204164 / 839813087,
            800635310 / 3783071287,
        ),
        (
            246121993 / 1340847787,
            0.0,
            0.0,
            -37695042795 / 15268766246,
            -309121744 / 1061227803,
            -12992083 / 490766935,
            6005943493 / 2108947869,
            393006217 / 1396673457,
            123872331 / 1001029789,
        ),
        (
            -1028468189 / 846180014,
            0.0,
            0.0,
            8478235783 / 508512852,
            1311729495 / 1432422823,
            -10304129995 / 1701304382,
            -48777925059 / 3047939560,
            15336726248 / 1032824649,
            -45442868181 / 3398467696,
            3065993473 / 597172653,
        ),
        (
            185892177 / 718116043,
            0.0,
            0.0,
            -3185094517 / 667107341,
            -477755414 / 1098053517,
            -703635378 / 230739211,
            5731566787 / 1027545527,
            5232866602 / 850066563,
            -4093664535 / 808688257,
            3962137247 / 1805957418,
            65686358 / 487910083,
        ),
        (
            403863854 / 491063109,
            0.0,
            0.0,
            -5068492393 / 434740067,
            -411421997 / 543043805,
            652783627 / 914296604,
            11173962825 / 925320556,
            -13158990841 / 6184727034,
            3936647629 / 1978049680,
            -160528059 / 685178525,
            248638103 / 1413531060,
            0.0,
        ),
    ),
    b=_DOPRI8_B,
    c=(
        0.0,
        1 / 18,
        1 / 12,
        1 / 8,
        5 / 16,
        3 / 8,
        59 / 400,
        93 / 200,
        5490023248 / 9719169821,
        13 / 20,
        1201146811 / 1299019798,
        1.0,
        1.0,
    ),
    error=tuple(x - y for x, y in zip(_DOPRI8_B, _DOPRI8_EMBEDDED, strict=True)),
    error_order=7,
    dense=(
        (
            1.0,
            -6.6910181737837595697,
            19.9990069333683970610,
            -30.0610568289666450593,
            22.1396504998094068976,
            -6.3448349392860401388,
        ),
        _NO_WEIGHT,
        _NO_WEIGHT,
        _NO_WEIGHT,
        _NO_WEIGHT,
        (
            0.0,
            -7.6142658045872677172,
            52.2273532792945524050,
            -121.4999627731334642623,
            116.4422149550342161651,
            -39.6107919852202505218,
        ),
        (
            0.0,
            10.7281392630428866124,
            -46.8919164181093621583,
            83.1721004639847717481,
            -67.1451318825957197185,
            20.3761213808791436958,
        ),
        (
            0.0,
            0.5526637063753648783,
            -0.1890893225010595467,
            9.5724507555993664382,
            -16.5672243527496524646,
            7.3347098826795362023,
        ),
        (
            0.0,
            4.2186562625665153803,
            -35.7075975946222072821,
            87.8406057677205645007,
            -89.9916014847245016028,
            32.8801774352459155182,
        ),
        (
            0.0,
            -0.6627209125361597559,
            6.2736448083240352160,
            -17.4152107770762969005,
            22.6237489648532849093,
            -10.1588990526426760954,
        ),
        (
            0.0,
            -1.2636789001135462218,
            10.3160881272450748458,
            -28.5903289514790976966,
            32.2362340167355370113,
            -12.5401268098782561200,
        ),
        (
            0.0,
            5.4106037898590422230,
            -34.7650769866611817349,
            81.6630950584341412934,
            -82.1020315488359848644,
            29.5553001484516038033,
        ),
        (
            0.0,
            -7.0321379067945741781,
            47.7457971078225540396,
            -114.9375291377009418170,
            116.2662185791119533462,
            -41.7923486424390588923,
        ),
        (
            0.0,
            2.3537586759714983486,
            -19.0082099341608028453,
            50.2558364226176017553,
            -53.9020777466385396792,
            20.3006925822100825485,
        ),
    ),
)

TABLEAUS: Registry[ButcherTableau] = Registry(
    "solver",
    {
        tableau.name: tableau
        for tableau in (
            EULER,
            MIDPOINT,
            HEUN2,
            HEUN3,
            RK4,
            RK4_38,
            ADAPTIVE_HEUN,
            FEHLBERG2,
            BOSH3,
            DOPRI5,
            TSIT5,
            DOPRI8,
        )
    },
)


def by_name(name: str) -> ButcherTableau:
    """The tableau of that name.

    Raises:
        ValueError: no such tableau; the message lists those there are.
    """
    return TABLEAUS[name]

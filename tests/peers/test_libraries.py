"""Trained flows within other libraries, in the units of the data: pyro, sbi and emcee."""

from __future__ import annotations

from pathlib import Path

import emcee
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Importance
from pyro.infer.mcmc.util import initialize_model
from sbi.inference import DirectPosterior
from sbi.utils import BoxUniform

import symadj_core
from symadj_core import TrainedFlow
from tests.core.test_trained import CONDITIONAL, config, folder, rows

MEAN, STD = torch.tensor([1e6, -3.0]).double(), torch.tensor([100.0, 0.5]).double()


@pytest.fixture
def flow(tmp_path: Path) -> TrainedFlow:
    return symadj_core.load(folder(tmp_path / "out", config())).with_settings(rtol=1e-4, atol=1e-4)


@pytest.fixture
def conditional(tmp_path: Path) -> TrainedFlow:
    return symadj_core.load(folder(tmp_path / "conditional", CONDITIONAL)).with_settings(rtol=1e-4, atol=1e-4)


def test_a_sample_statement_of_pyro_draws_and_scores_rows(flow: TrainedFlow) -> None:
    def model(x: torch.Tensor | None = None) -> torch.Tensor:
        with pyro.plate("rows", 6):
            return pyro.sample("x", dist.Independent(flow, 0), obs=x)

    assert model().shape == (6, 2)
    trace = pyro.poutine.trace(model).get_trace(rows())
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], flow.log_prob(rows()))


def test_pyro_infers_with_a_flow_as_the_prior(flow: TrainedFlow) -> None:
    y = MEAN + 0.5 * STD
    likelihood = dist.Normal(y, STD).to_event(1)

    def model() -> None:
        x = pyro.sample("x", dist.Independent(flow, 0))
        pyro.sample("y", dist.Normal(x, STD).to_event(1), obs=y)

    weighed = Importance(model, num_samples=20).run()
    drawn = torch.stack([trace.nodes["x"]["value"] for trace in weighed.exec_traces])
    torch.testing.assert_close(torch.stack(list(weighed.log_weights)), likelihood.log_prob(drawn))
    # What its samplers by gradients take: the potential in unbounded coordinates, differentiable.
    _, potential, _, _ = initialize_model(model)
    x = flow.sample().requires_grad_()
    (slope,) = torch.autograd.grad(potential({"x": x}), x)
    (expected,) = torch.autograd.grad(-flow.log_prob(x) - likelihood.log_prob(x), x)
    torch.testing.assert_close(slope, expected)


def test_a_posterior_of_sbi_samples_and_scores_in_its_own_shapes(conditional: TrainedFlow) -> None:
    estimator = conditional.as_sbi()
    theta, ages = rows(), torch.linspace(20, 70, 6, dtype=torch.float64)[:, None]
    expected = conditional.log_prob(theta, context=ages)
    torch.testing.assert_close(estimator.log_prob(theta.expand(3, 6, 2), ages), expected.expand(3, 6))
    assert estimator.log_prob(theta, ages).shape == (1, 6)
    torch.testing.assert_close(estimator.loss(theta, ages), -expected)
    assert estimator.sample(torch.Size([4]), ages.float()).shape == (4, 6, 2)
    assert estimator.sample(torch.Size([4]), ages.float()).dtype == torch.float32

    far = 100 * STD.float()
    posterior = DirectPosterior(estimator, BoxUniform(MEAN.float() - far, MEAN.float() + far))
    given = torch.tensor([[30.0]])
    drawn = posterior.sample((200,), x=given, show_progress_bars=False)
    assert drawn.shape == (200, 2)
    scores = posterior.log_prob(drawn, x=given)
    torch.testing.assert_close(scores, conditional.log_prob(drawn, context=given), rtol=0, atol=1e-2)
    batched = posterior.sample_batched(torch.Size([5]), x=ages.float(), show_progress_bars=False)
    assert batched.shape == (5, 6, 2)


def test_a_flow_without_context_is_no_posterior_of_sbi(flow: TrainedFlow) -> None:
    with pytest.raises(ValueError, match="trained without context columns"):
        flow.as_sbi()


def test_emcee_samples_by_the_density(flow: TrainedFlow) -> None:
    start = flow.sample((20,)).numpy()
    sampler = emcee.EnsembleSampler(20, 2, lambda x: flow.log_prob(x).numpy(), vectorize=True)
    sampler.random_state = np.random.RandomState(0).get_state()
    sampler.run_mcmc(start, 100)
    chain = (sampler.get_chain(discard=50, flat=True) - MEAN.numpy()) / STD.numpy()
    drawn = (flow.sample((2000,)) - MEAN) / STD
    np.testing.assert_allclose(chain.mean(0), drawn.mean(0), atol=0.3)
    np.testing.assert_allclose(chain.std(0), drawn.std(0), rtol=0.25)

"""The page in a real browser: what a user sees of jobs, with no error, and without a request to another host."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from symadj.service import keys
from symadj.service.contract.layout import CONFIG, WEIGHTS
from symadj.service.roles import Role
from symadj.service.store import Database
from symadj.workers.plots import draw_images, histograms
from tests.api.conftest import NOW, PATIENCE_SECONDS, Run, runs_of
from tests.api.test_data import column, record
from tests.api.test_sweeps import RATE, Dispatching, begin
from tests.conftest import ApiServer, running_api
from tests.core.test_trained import CONDITIONAL, IMAGES, config, folder
from tests.service.lives import plan

MARKUP = "<img src=x onerror=document.title='hacked'>"
START = datetime(2026, 1, 1, tzinfo=UTC)


def steps(first: int, last: int, **metrics: float) -> list[dict[str, Any]]:
    """Return records of steps, one a second."""
    return [
        {"kind": "step", "step": step, "time": (START + timedelta(seconds=step)).isoformat(), "metrics": metrics}
        for step in range(first, last + 1)
    ]


@pytest.fixture
def page(browser: Chrome, api_server: ApiServer) -> Iterator[Page]:
    """The page of the shared API; afterwards: no error was told, and no other host was asked for anything."""
    shown = Page(browser, api_server.url)
    yield shown
    shown.assert_clean()


class Page:
    """A tab with the page."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser, self.url = browser, url

    def open(self, view: str = "") -> None:
        self.browser.get("about:blank")
        self.browser.get_log("browser")  # what was said before
        self.browser.get(f"{self.url}/{view}")

    def see(self, *texts: str) -> None:
        """Wait until the page shows all of these."""

        def shown(_: Chrome) -> bool:
            text = self.browser.find_element(By.TAG_NAME, "body").text
            return all(item in text for item in texts)

        WebDriverWait(self.browser, PATIENCE_SECONDS, poll_frequency=0.1).until(shown, f"{texts} on the page")

    def find(self, selector: str, by: str = By.CSS_SELECTOR) -> WebElement:
        return WebDriverWait(self.browser, PATIENCE_SECONDS, poll_frequency=0.1).until(
            lambda browser: browser.find_element(by, selector), selector
        )

    def rows(self) -> list[str]:
        """Return the texts of all rows of tables, of one moment: they are drawn anew as figures come."""
        script = "return [...document.querySelectorAll('main tr')].map(row => row.innerText)"
        return [" ".join(text.split()) for text in self.browser.execute_script(script)]

    def press(self, title: str) -> None:
        self.find(f"//button[normalize-space()='{title}']", By.XPATH).send_keys(Keys.ENTER)

    def expand(self, title: str) -> None:
        """Open a section by the keyboard."""
        self.find(f"//summary[normalize-space()='{title}']", By.XPATH).send_keys(Keys.ENTER)

    def assert_clean(self) -> None:
        said = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] != "INFO"]
        assert said == []
        loaded = self.browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert all(url.startswith((f"{self.url}/", f"blob:{self.url}/")) for url in loaded), loaded


def test_the_list_shows_what_jobs_do_and_finds_them_by_text_state_and_label(
    page: Page, new_run: Callable[..., Run], submit: Callable[..., dict[str, Any]]
) -> None:
    run = new_run(name="seen running", labels={"of": MARKUP}, stop={"max_steps": 40})
    assert run.send(*steps(1, 10, nll=2.125, loss=3.0)).status_code == 200
    waiting = submit(name="seen waiting")
    page.open("#/jobs?text=SEEN")
    page.see("seen running", "10 / 40", "2.125", "30 s", f"of={MARKUP}", "seen waiting", "place ")
    box = page.find("input[name=text]")
    box.send_keys(Keys.END, " wait")
    WebDriverWait(page.browser, PATIENCE_SECONDS).until(lambda _: "10 / 40" not in page.find("main").text)
    page.see(waiting["id"])
    page.open(f"#/jobs?state=running&label={quote('of=' + MARKUP)}")
    page.see("seen running")
    assert page.browser.find_elements(By.CSS_SELECTOR, "main img") == []
    assert "hacked" not in page.browser.title


def test_a_running_job_is_shown_live_and_can_be_paused(page: Page, new_run: Callable[..., Run]) -> None:
    run = new_run(name="live", labels={"of": MARKUP}, stop={"max_steps": 100})
    assert run.send(*steps(1, 50, nll=2.5, loss=3.0, step_seconds=0.1)).status_code == 200
    page.open(f"#/jobs/{run.job_id}")
    page.see("live", "50 / 100", "50 s", "newest 2.5", f"of={MARKUP}")
    assert len(page.browser.find_elements(By.CSS_SELECTOR, ".plot canvas")) == 3
    assert run.send(*steps(51, 60, nll=2.25, loss=3.0, step_seconds=0.1, validation_nll=2.75)).status_code == 200
    page.see("newest 2.25", "newest 2.75", "60 / 100")
    page.press("Pause")
    page.see("Pause: asked for.", "pausing")
    page.expand("Timeline")
    page.see(run.get("/events").json()["items"][-1]["message"])
    page.expand("Spec")
    page.see("stop.max_steps 100", '"max_steps": 100')


def test_a_page_that_a_proxy_gives_in_the_apis_place_is_told_as_that(page: Page) -> None:
    page.open("#/sweeps")
    page.see("Sweeps")
    sign_in = "new Response('<html>Sign in</html>', {headers: {'Content-Type': 'text/html; charset=utf-8'}})"
    page.browser.execute_script(f"window.fetch = async () => {sign_in}; location.hash = '#/jobs'")
    page.see("A proxy answers in the API's place, perhaps to ask who you are: reload the page.")


def test_jobs_are_compared_by_what_differs_in_their_specs(page: Page, new_run: Callable[..., Run]) -> None:
    first, second = (new_run(name="compared", stop={"max_steps": most}) for most in (123, 321))
    for run in (first, second):
        assert run.send(*steps(1, 10, nll=2.5)).status_code == 200
    page.open(f"#/compare?job={first.job_id}&job={second.job_id}")
    page.see("stop.max_steps", "123", "321", "newest 2.5")
    assert "solver.rtol" not in page.find("main").text
    page.browser.set_window_size(390, 800)
    assert page.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "on a phone"
    page.browser.set_window_size(1200, 900)


def test_a_zoom_reads_its_steps_anew_and_escape_shows_all_again(page: Page, new_run: Callable[..., Run]) -> None:
    run = new_run(name="long")
    for first in (1, 1001, 2001):
        assert (
            run.send(*steps(first, first + 998, loss=1.0), *steps(first + 999, first + 999, loss=50.0)).status_code
            == 200
        )
    page.open(f"#/jobs/{run.job_id}")
    page.see("least 1, most 50", "up to 3 steps a point")
    first, last = page.browser.find_elements(By.CSS_SELECTOR, "input.step")
    first.send_keys("990")
    last.send_keys("999", Keys.TAB)
    page.see("Double click or Escape: all steps.", "least 1, most 1")
    assert "steps a point" not in page.find("figcaption").text
    page.find("input[type=range]").send_keys(Keys.ARROW_RIGHT * 5)
    page.see("smoothed ")
    page.find("body").send_keys(Keys.ESCAPE)
    page.see("up to 3 steps a point", "least 1, most 50")
    assert first.get_attribute("value") == ""


def test_memory_is_shown_by_rank_and_phase_beside_the_plan_and_what_backprop_would_take(
    page: Page, new_run: Callable[..., Run]
) -> None:
    run = new_run(name="measured")
    known = plan().model_dump(mode="json")
    own = known["gradients"][0] | {"gradient": {"kind": "symplectic"}}
    other = known["gradients"][0] | {"chosen": False, "parts": [own["parts"][0] | {"fixed_bytes": 2**20}]}
    sizes = {"host_idle_bytes": 1000, "device_idle_bytes": None, "device_peak_bytes": None, "time": NOW, "step": 1}
    peaks = [
        {"kind": "memory", "rank": rank, "phase": phase, "host_peak_bytes": peak} | sizes
        for rank, phase, peak in ((0, "forward", 1100), (0, "backward", 1150), (1, "backward", 1900))
    ]
    sent = run.send(
        {"kind": "plan", "time": NOW, "plan": known | {"gradients": [own, other]}},
        *steps(1, 1, loss=1.0, steps_accepted=40.0),
        *peaks,
    )
    assert sent.status_code == 200, sent.text
    page.open(f"#/jobs/{run.job_id}")
    page.see("Planned for symplectic, the job's own", "With backprop it would be", "1.0 MiB", "40.0 accepted steps")
    rows = page.rows()
    assert "Measured, highest of a worker 1.9 KiB" in rows
    assert "1 backward 1000 B 900 B 1.9 KiB" in rows


def test_the_page_plans_every_gradient_at_the_press_of_a_button_beside_what_was_measured(
    page: Page, new_run: Callable[..., Run]
) -> None:
    small = {"kind": "cnf", "blocks": 1, "field": {"hidden": [4]}}
    run = new_run(name="to be planned", flow=small, solver={"kind": "fixed", "method": "euler", "steps": 2000})
    sizes = {"host_idle_bytes": 1000, "device_idle_bytes": None, "device_peak_bytes": None, "time": NOW, "step": 1}
    peak = {"kind": "memory", "rank": 0, "phase": "backward", "host_peak_bytes": 600 * 2**20} | sizes
    assert run.send(*steps(1, 1, loss=1.0), peak).status_code == 200
    page.open(f"#/jobs/{run.job_id}")
    page.press("What every gradient would take")
    page.see("For 2000.0 accepted steps of each block's solve.")
    rows = page.rows()
    assert "Measured, highest of a worker 600 MiB" in rows
    planned = run.api.post("/api/v1/plans", json=run.get("").json()["spec"]).json()["gradients"]
    expected = []
    for item in planned:
        kind, *options = (json.dumps(part, separators=(",", ":")) for part in apart(item["gradient"]))
        name = " ".join([kind.strip('"'), *options])
        words = f"Planned for {name}, the job's own" if item["chosen"] else f"With {name} it would be"
        expected.append(f"{words} {item['peaks'][0]['worker_bytes'] / 2**20:.0f} MiB")
    assert set(expected) <= set(rows)
    assert len({row.split()[-2] for row in expected}) >= 3, "what gradients take can be told apart"


def apart(gradient: dict[str, Any]) -> list[Any]:
    """The kind of a gradient, and its options if it has any."""
    options = {name: value for name, value in gradient.items() if name != "kind"}
    return [gradient["kind"], *([options] if options else [])]


def test_a_sample_of_the_flow_is_drawn_anew_over_the_data(
    page: Page, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run, described = new_run(name="sampled"), config()
    store_flow(run, tmp_path / "out", described)
    (standardise,) = described["transforms"]
    stored = histograms(
        np.random.default_rng(0).normal(size=(500, 2)),
        described["columns"],
        lambda placed: placed * standardise["std"] + standardise["mean"],
    )
    run.store("histograms.json", stored, "application/json")
    page.open(f"#/jobs/{run.job_id}")
    page.expand("Sample")
    page.see("Shaded: 500 test rows.")
    empty = pixels(page)
    page.press("Draw a sample")
    page.see("1,000 samples, in the units of the data.", "of the samples lie elsewhere than the data")
    drawn = pixels(page)
    page.press("Draw a sample")
    WebDriverWait(page.browser, PATIENCE_SECONDS, poll_frequency=0.1).until(lambda _: pixels(page) != drawn)
    assert empty != drawn
    Select(page.find(".sample select")).select_by_visible_text("ssc")
    assert pixels(page) != drawn


def test_a_conditional_flow_is_asked_for_samples_given_the_values_that_the_page_asks_for(
    page: Page, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = new_run(name="given an age")
    store_flow(run, tmp_path / "out", CONDITIONAL)
    read = record(column("fsc"), column("ssc"), column("age", context=True, mean=40.0))
    assert run.send(read, source="driver", first_seq=1).status_code == 200
    page.open(f"#/jobs/{run.job_id}")
    page.expand("Sample")
    page.see("given age")
    (given,) = (label for label in page.browser.find_elements(By.CSS_SELECTOR, "label") if "given age" in label.text)
    box = given.find_element(By.TAG_NAME, "input")
    assert box.get_attribute("value") == "40", "the mean of those that were read"
    page.browser.execute_script(
        "const send = fetch;"
        "window.fetch = (url, how) => { window.sent = how?.body ?? window.sent; return send(url, how); }"
    )
    box.clear()
    box.send_keys("61.5")
    page.press("Draw a sample")
    page.see("1,000 samples, in the units of the data.")
    assert json.loads(page.browser.execute_script("return window.sent")) == {"context": {"age": [61.5]}}


def test_a_sample_of_a_flow_of_images_is_shown_as_images_beside_those_of_the_run(
    page: Page, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = new_run(name="of images")
    store_flow(run, tmp_path / "out", IMAGES)
    read = record(column("pixels of channel 0", min=0, max=15), column("pixels of channel 1", min=0, max=15), dim=32)
    read["summary"]["image"] = IMAGES["shape"]
    rows = np.random.default_rng(0).integers(0, 16, (9, 32)).astype(float)
    run.store("images.png", draw_images(rows, rows, (2, 4, 4), 16, "images"), "image/png")
    assert run.send(read, source="driver", first_seq=1).status_code == 200
    page.open(f"#/jobs/{run.job_id}")
    page.expand("Sample")
    page.see("Drawn now", "images.png")
    stored = page.find(".pictures img[alt^='Test rows']")
    WebDriverWait(page.browser, PATIENCE_SECONDS, poll_frequency=0.1).until(
        lambda _: int(stored.get_attribute("naturalWidth") or 0)
    )
    empty = pixels(page, ".pictures")
    page.press("Draw a sample")
    page.see("64 samples, in the units of the data.")
    assert pixels(page, ".pictures") != empty


def store_flow(run: Run, place: Path, described: dict[str, Any]) -> None:
    """Store the files of a trained flow as the run's."""
    source = folder(place, described)
    for name in (CONFIG, WEIGHTS):
        run.store(name, (source / name).read_bytes())


def pixels(page: Page, place: str = ".sample") -> str:
    """Return the picture of a sample, as an address with its bytes."""
    made: str = page.browser.execute_script(f"return document.querySelector('{place} canvas').toDataURL()")
    return made


def test_a_job_is_continued_with_changes_from_one_of_its_checkpoints(page: Page, new_run: Callable[..., Run]) -> None:
    run = new_run(name="continued", stop={"max_steps": 10})
    run.write_checkpoint(5)
    run.write_checkpoint(10)
    run.end("succeeded", result={})
    page.open(f"#/jobs/{run.job_id}")
    page.see("succeeded")
    page.press("Continue with changes…")
    page.see("step 5 (steps)")
    Select(page.find("dialog[open] select")).select_by_value("5")
    changes = page.find("dialog[open] textarea")
    changes.clear()
    changes.send_keys('{"name": "onwards", "stop": {"max_steps": -1}}')
    page.press("Submit")
    page.see("/stop/max_steps: Input should be greater than")
    changes.clear()
    changes.send_keys('{"name": "onwards", "stop": {"max_steps": 30}}')
    page.press("Submit")
    page.see("onwards", f"{run.job_id}, step-000000005-attempt-1", "queued")
    # Chromium tells of the refusal.
    page.browser.get_log("browser")


def test_the_keyboard_reaches_the_content_and_opens_a_job(page: Page, new_run: Callable[..., Run]) -> None:
    run = new_run(name="by keyboard")
    page.open(f"#/jobs?text={run.job_id}")
    page.see("by keyboard")
    ActionChains(page.browser).send_keys(Keys.TAB, Keys.ENTER).perform()
    assert page.browser.switch_to.active_element.get_attribute("id") == "main"
    for _ in range(20):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        if page.browser.switch_to.active_element.text == "by keyboard":
            break
    ActionChains(page.browser).send_keys(Keys.ENTER).perform()
    page.see("Submitted", "Curves")
    assert page.browser.current_url.endswith(run.job_id)


def test_the_cluster_says_who_holds_it_and_who_waits_for_what(
    page: Page, new_run: Callable[..., Run], submit: Callable[..., dict[str, Any]]
) -> None:
    holds = new_run(name="holds it", resources={"memory_budget": "1GiB"})
    waits = submit(name="waits for it", priority=100)
    page.open("#/cluster")
    page.see("holds it", holds.job_id, "1.0 GiB", "waits for it", waits["id"], "It is the next", "Ray does not answer")


def test_a_sweep_is_shown_with_its_best_and_a_line_for_each_trial_that_the_keyboard_picks(
    page: Page, api: httpx.Client, api_server: ApiServer
) -> None:
    dispatching = Dispatching(api_server)
    with closing(dispatching.database):
        sweep = begin(api, dispatching, name="seen sweep")
        for trial, nll in zip(sweep["trials"][:2], (2.5, 1.5), strict=True):
            dispatching.end(trial["job"], nll)
        dispatching.carry_on()
        page.open("#/sweeps?state=running")
        page.see("seen sweep", "2 of 3", "1.5")
        page.browser.set_window_size(390, 800)
        page.open(f"#/sweeps/{sweep['id']}")
        page.see("2 of 3 trials by grid", "Trial 1: validation_nll 1.5 (minimize)", "queued", "best 1.5")
        page.see(f"{RATE} (log)")
        assert page.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "on a phone"
        lines = page.browser.find_elements(By.CSS_SELECTOR, "polyline.trial")
        colours = {line.get_attribute("data-trial"): line.get_attribute("stroke") for line in lines}
        assert colours.keys() == {"0", "1", "2"}
        assert colours["0"] != colours["1"]
        assert colours["2"] is None, "it has no value yet"
        page.browser.execute_script("arguments[0].focus()", lines[-1])
        ActionChains(page.browser).send_keys(Keys.ENTER).perform()
        page.see("trial 1, succeeded: validation_nll 1.5; optimizer.learning_rate 0.01, flow.field.hidden [8]")
        assert page.find("tr.chosen").text.startswith("1 succeeded")
        assert page.browser.switch_to.active_element.get_attribute("data-trial") == "1"
        page.browser.execute_script("window.confirm = () => true")
        page.press("Cancel")
        page.see("Cancelled by local.")
        page.browser.set_window_size(1200, 900)


def test_the_page_asks_for_a_key_and_keeps_it_out_of_every_address(browser: Chrome, tmp_path: Path) -> None:
    secret = "k" * 32
    with running_api(tmp_path, SYMADJ_AUTH="keys", SYMADJ_KEY_SECRET=secret) as server:
        database = Database(f"sqlite:///{tmp_path / 'symadj.sqlite'}")
        with database.session() as session:
            _, key = keys.create(session, secret.encode(), name="ada", role=Role.SUBMITTER)
        database.close()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=server.url, headers=headers) as client, runs_of(server, client) as make:
            run = make(name="of ada", owner="ada")
            run.store("note.txt", b"as it was stored", "text/plain")
        page = Page(browser, server.url)
        page.open()
        page.find("dialog[open] #key").send_keys(key, Keys.ENTER)
        page.see("of ada")
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        browser.get(f"{server.url}/#/jobs/{run.job_id}")
        page.see("of ada", "Pictures and files")
        page.expand("Pictures and files")
        page.see("note.txt")
        page.press("Download")
        WebDriverWait(browser, PATIENCE_SECONDS, poll_frequency=0.1).until(lambda _: (tmp_path / "note.txt").exists())
        assert (tmp_path / "note.txt").read_bytes() == b"as it was stored"
        asked = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert not any(key in url for url in [*asked, browser.current_url])
        # A refusal is what made it ask: Chromium tells of it.
        said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"]
        assert all(re.search(r"status of 401", message) for message in said), said
        browser.get("about:blank")

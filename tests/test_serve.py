"""`zoo serve`: the endpoints, the page in a browser, and how it starts and ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import rag_fixtures as fixtures

from converters import ask, ask_rag, serve
from zoo import RagTokenizer
from zoo.retrieval.answers import Answer, RagAnswer, RagEvidence
from zoo.stages import stage

EVIL = "<script>document.title = 'taken'</script><b>bold</b>"


class Model:
    """Answers without thinking; what the page shows is then known."""

    def __init__(self, answers: list[Any], retriever: Any, config: Any):
        self.answers, self.retriever, self.config = answers, retriever, config
        self.asked: list[dict[str, Any]] = []

    def answer(self, questions: list[str], n_best: int, **options: Any) -> list[list[Any]]:
        self.asked.append({"questions": questions, "n_best": n_best, **options})
        if "broken" in questions[0]:
            raise RuntimeError("the model <i>broke</i>")
        for name in ("tokenize", "encode", "retrieve", "generate"):
            with stage(name):
                time.sleep(0.002)
        return [self.answers[:n_best]]


class RagTokenForGeneration(Model):
    pass


class RealmForOpenQA(Model):
    pass


def rag_model(folder: Path) -> Model:
    fixtures.save_tokenizers(folder)
    tokenizer = RagTokenizer.from_pretrained(folder, config=fixtures.rag_config())

    class Retriever:
        question_encoder_tokenizer = tokenizer.question_encoder
        index = fixtures.ExactIndex(fixtures.PASSAGES, fixtures.vectors())

    tokens = ("gold", " \u2603", "</s>")
    passages = (
        RagEvidence(0, "Gold", f"{EVIL} is a metal", 1.5, 0.25, (0.75, 0.0, 0.0)),
        RagEvidence(4, EVIL, "Lead", 0.5, 0.75, (0.25, 1.0, 1.0)),
    )
    answer = RagAnswer(f"gold \u2603{EVIL}", -0.5, 0.61, tokens, passages)
    return RagTokenForGeneration([answer, answer], Retriever(), fixtures.rag_config())


def realm_model(folder: Path) -> Model:
    class Retriever:
        tokenizer = rag_model(folder).retriever.question_encoder_tokenizer
        block_records = ["a", "b", "c"]

    # A character beyond 16 bits in front: Python counts one, JavaScript two.
    block = f"\U0001f600 {EVIL} of gold it is"
    start = block.index("gold")
    answer = Answer("gold", 3.25, 1.25, 2.0, 17, block, start, start + 4)
    return RealmForOpenQA([answer], Retriever(), fixtures.rag_config().question_encoder)


@contextlib.contextmanager
def running(model: Model, run: Any, **options: Any) -> Iterator[str]:
    """The address of a server in another thread."""
    import uvicorn

    answering = serve.Answering(model, run, options)
    app = serve.make_app(answering, answering.about, serve.LOCAL)
    opened = serve.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


def request(address: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    if isinstance(body, dict | list):
        body = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
    asked = urllib.request.Request(address, body, headers)
    try:
        with urllib.request.urlopen(asked, timeout=30) as found:
            return found.status, dict(found.headers), found.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_endpoints(tmp_path: Path) -> None:
    model = rag_model(tmp_path)
    with running(model, ask_rag, num_beams=2) as address:
        status, headers, page = request(address)
        assert status == 200 and b"<form" in page
        assert "default-src 'none'" in headers["content-security-policy"]
        for name in ("page.js", "page.css"):
            status, headers, text = request(f"{address}/{name}")
            assert status == 200 and headers["x-content-type-options"] == "nosniff"
            assert b"http" not in text and b"innerHTML" not in text
        assert b"http" not in page
        about = json.loads(request(f"{address}/about")[2])
        assert about == {"model": "RagTokenForGeneration", "kind": "rag-token", "passages": None}
        asked = {"question": " what is gold ", "n_best": 1}
        status, _, text = request(f"{address}/answer", asked)
        found = json.loads(text)
        assert status == 200 and found["question"] == "what is gold"
        assert model.asked == [{"questions": ["what is gold"], "n_best": 1, "num_beams": 2}]
        assert found["answers"] == json.loads(
            json.dumps(ask_rag.as_json("", model.answers[:1])["answers"])
        )
        assert set(found["seconds"]) == {"tokenize", "encode", "retrieve", "generate"}
        assert all(0.002 <= x <= found["total"] for x in found["seconds"].values())
        assert found["notes"] == [] and found["kind"] == "rag-token"
        # A question that is cut, and one that is too long.
        found = json.loads(request(f"{address}/answer", {"question": "gold " * 99})[2])
        assert found["notes"] == ["The question has 101 tokens; the first 30 of them were read."]
        for body, code, message in (
            ({"question": "x" * 5000}, 400, "5000 characters, the most is 4000"),
            ({"question": "  "}, 400, "question: type one"),
            ({}, 400, "question: type one"),
            ({"question": 7}, 400, "question: type one"),
            ({"question": "a", "n_best": 0}, 400, "n_best: received 0"),
            ({"question": "a", "n_best": True}, 400, "n_best: received True"),
            ({"question": "a", "other": 1}, 400, "expected an object"),
            ([], 400, "expected an object"),
            ({"question": "broken"}, 500, "RuntimeError: the model <i>broke</i>"),
            ({"question": "x" * 70000}, 413, "longer than 65536"),
        ):
            status, headers, text = request(f"{address}/answer", body)
            assert status == code and message in json.loads(text)["error"], text
            assert headers["content-type"] == "application/json"
        status, _, text = request(f"{address}/answer", b"{", **{"Content-Type": "application/json"})
        assert status == 400 and "no JSON" in json.loads(text)["error"]
        # What a form on another page can send, and another site's name for this machine.
        assert request(f"{address}/answer", b"{}", **{"Content-Type": "text/plain"})[0] == 415
        assert request(f"{address}/about", Host="evil.example:80")[0] == 400
        assert request(f"{address}/nowhere")[0] == 404
        assert request(f"{address}/answer")[0] == 405


def test_ports() -> None:
    with serve.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port: {port} is in use on 127.0.0.1"):
            serve.listen("127.0.0.1", port)
    with pytest.raises(ValueError, match="--host: "):
        serve.listen("192.0.2.1", 0)  # an address for documentation


def test_the_command_starts_and_ends(tmp_path: Path) -> None:
    """A real model in another process: a question by HTTP, and Ctrl-C."""
    pytest.importorskip("torch")
    folder = fixtures.save_system(tmp_path / "model", "RagSequenceForGeneration")
    command = [sys.executable, "-m", "converters.cli", "serve", "--model", folder, "--port", "0"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "answers with RagSequenceForGeneration; Ctrl-C ends it" in line, (
            process.communicate()
        )
        address = line.split()[0]
        found = json.loads(request(f"{address}/answer", {"question": "what is gold"})[2])
        assert found["kind"] == "rag-sequence" and found["passages"] == 9
        assert set(found["seconds"]) == {"tokenize", "encode", "retrieve", "generate", "weigh"}
        shares = [passage["share"] for passage in found["answers"][0]["passages"]]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert (process.returncode, out, error) == (0, "", "")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(address.rsplit(":", 1)[1]))) != 0


# In a browser -------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = shutil.which("chromedriver")
    if BROWSER is None or driver is None:
        pytest.skip("no browser is installed")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


class Page:
    """What somebody does with the page, and sees."""

    def __init__(self, browser: Any, address: str):
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser, self.wait = browser, WebDriverWait(browser, 30)
        browser.get(address)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return [element.get_property("textContent") for element in self.all(selector)]

    def ask(self, question: str, shows: str) -> None:
        [field], [button] = self.all("#question"), self.all("#ask")
        field.clear()
        field.send_keys(question)
        button.click()
        self.wait.until(lambda _: any(self.texts(shows)) and button.is_enabled())


def test_the_page_with_realm(browser: Any, tmp_path: Path) -> None:
    model = realm_model(tmp_path)
    with running(model, ask) as address:
        page = Page(browser, address)
        page.wait.until(lambda _: page.texts("#about") == ["RealmForOpenQA, 3 passages"])
        page.ask("what is it", ".answer")
        assert page.texts(".answer h2") == ["gold"] and page.texts("mark") == ["gold"]
        assert page.texts("blockquote") == [model.answers[0].block]
        assert "score 3.25: reader 1.25, block 17 2.00" in page.texts(".answer p")[0]
        names = page.texts("#times td:first-child")
        assert names == ["tokenize", "encode", "retrieve", "generate", "in all"]
        assert all(time.endswith(" ms") for time in page.texts("#times td.number"))
        assert not page.all("#answers script") and browser.title == "Twin Zoo"
        # Nothing asked, and a model that fails.
        page.ask("", "#error")
        assert page.texts("#error") == ["question: type one, it is empty"]
        assert not page.all(".answer")
        page.ask("broken", "#error")
        assert page.texts("#error") == ["RuntimeError: the model <i>broke</i>"]
        page.ask("gold " * 40, ".answer")
        assert "the first 30 of them were read" in page.texts("#status")[0]
        assert page.texts("#error") == [""]
        model.answers = []
        page.ask("what else", "#answers")
        assert page.texts("#answers") == ["No answer in what was read."]
    page.ask("are you there", "#error")
    assert "The server does not answer" in page.texts("#error")[0]


def test_the_page_with_rag(browser: Any, tmp_path: Path) -> None:
    with running(rag_model(tmp_path), ask_rag) as address:
        browser.get_log("browser")
        page = Page(browser, address)
        page.ask("what is gold", ".answer")
        assert page.texts(".answer h2") == [f"gold \u2603{EVIL}"] * 2
        first = page.all(".answer")[0]
        passages = first.find_elements("css selector", ".passage")
        shown = [passage.get_property("textContent") for passage in passages]
        # The one with the largest share comes first.
        assert shown[0].startswith(f" 75.0 % {EVIL} passage 4, 0.50gold \u2603</s>")
        assert shown[1].startswith(" 25.0 % Gold passage 0, 1.50")
        assert page.texts("blockquote")[1] == f"{EVIL} is a metal"
        tokens = passages[0].find_elements("css selector", ".token")
        assert [token.get_attribute("data-share") for token in tokens] == ["0.25", "1", "1"]
        colours = [token.value_of_css_property("background-color") for token in tokens]
        assert colours[0] != colours[1] == colours[2]
        widths = [x.size["width"] for x in first.find_elements("css selector", ".bar")]
        assert widths[0] == pytest.approx(3 * widths[1], rel=0.1)
        assert not page.all("#answers script, #answers b") and browser.title == "Twin Zoo"
        # Fewer answers than by default; nothing was forbidden, missing or asked from elsewhere.
        browser.execute_script("document.getElementById('n-best').value = 1")
        page.ask("what is gold", ".answer")
        assert len(page.all(".answer")) == 1
        assert [entry["message"] for entry in browser.get_log("browser")] == []

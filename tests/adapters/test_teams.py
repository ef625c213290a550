"""Cards in Teams: what they look like, how they get there, and where they are not sent."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from adapters.azure.settings import Settings
from adapters.azure.teams import LARGEST, TeamsNotifier, adaptive, message
from adapters.local.database import Database
from adapters.local.store import SqliteStore
from tests.functions.test_pages_browser import CHROMIUM, FLAGS
from tools import setup
from triggers.errors import Misconfigured, Refused, Retry

ORIGIN = "https://loop.example"
APPROVAL = {
    "id": "approval/flights.2013-04-12.1",
    "kind": "approval",
    "loop": "flights",
    "title": "flights: a new model waits for your answer",
    "text": "auc 0.712 instead of 0.684: gain 0.028 (0.011 to 0.045 at 95%) on 12,404 rows",
    "facts": {"run": "flights.2013-04-12.1", "candidate": "1f6a9c0e77ab", "approvers": ["anna", "ben"]},
    "link": "/api/approvals/flights.2013-04-12.1",
}
PROGRESS = {**APPROVAL, "kind": "progress", "title": "flights: wave 2 of 3 begins", "text": "wave 1: 4 verified"}
VERIFIED = {**APPROVAL, "kind": "run-verified", "title": "flights: verified", "text": "verified at 3 sites"}
HOSTILE = "[pay](https://evil.example) **bold** <img src=x onerror=boom()> \u202e\ud800"
CARDS = [
    APPROVAL,
    PROGRESS,
    VERIFIED,
    *({**VERIFIED, "kind": f"run-{k}"} for k in ("failed", "rolled-back", "expired")),
]
SECRET = "sig=c2VjcmV0"


@pytest.mark.parametrize("card", [*CARDS, {**APPROVAL, "title": HOSTILE, "text": HOSTILE}, {"kind": "other"}])
def test_a_card_is_one_of_version_1_4(card: dict[str, Any]) -> None:
    schema = json.loads(files("adaptive_cards").joinpath("schemas/schema-1.4.json").read_text())
    made = adaptive(card, ORIGIN)
    jsonschema.validate(made, schema)
    assert made["version"] == "1.4"
    assert "Action.Submit" not in json.dumps(made)
    assert '"TextBlock"' not in json.dumps(made), "it would read markdown"


def test_what_is_opened_is_the_page_that_answers_with_post() -> None:
    _, what_to_do = adaptive(APPROVAL, ORIGIN, "https://git.example.com/runbooks.md")["actions"]
    assert what_to_do["url"] == "https://git.example.com/runbooks.md#approval"
    [action] = adaptive(APPROVAL, ORIGIN)["actions"]
    assert action["url"] == "https://loop.example/api/approvals/flights.2013-04-12.1"
    [action] = adaptive(VERIFIED, ORIGIN)["actions"]
    assert action["url"] == "https://loop.example/api/ui/#/runs/flights.2013-04-12.1"


@pytest.mark.parametrize("letter", ["a", "\x00", "\U0001f600", "\ud800", '"'])
def test_however_much_is_said_the_message_fits(letter: str) -> None:
    many = {f"{letter * 500}{i}": letter * 9000 for i in range(200)}
    body = message({**APPROVAL, "title": letter * 9000, "text": letter * 90_000, "facts": many}, ORIGIN)
    assert len(body) <= LARGEST
    content = json.loads(body)["attachments"][0]["content"]
    assert content["actions"][0]["url"].endswith("/api/approvals/flights.2013-04-12.1")


class Workflow:
    """Answers as it is told, then with 202."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.posts: list[dict[str, Any]] = []
        workflow = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == f"/workflows/1?api-version=1&{SECRET}"
                status, headers = workflow.answers.pop(0) if workflow.answers else (202, {})
                if status == 0:
                    self.close_connection = True
                    return
                workflow.posts.append(body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def workflow() -> Iterator[Workflow]:
    workflow = Workflow()
    yield workflow
    workflow.server.shutdown()
    workflow.server.server_close()


class Told(Settings):
    """Settings whose workflow is on this machine."""

    def __init__(self, workflow: Workflow) -> None:
        super().__init__({"PublicUrl": ORIGIN})
        self.address = f"http://127.0.0.1:{workflow.server.server_port}/workflows/1?api-version=1&{SECRET}"

    @property
    def teams(self) -> str:  # type: ignore[override]
        return self.address


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def teams(workflow: Workflow, slept: list[float], database: Database) -> TeamsNotifier:
    return TeamsNotifier(Told(workflow), SqliteStore(database), slept.append)


def test_a_card_is_posted(teams: TeamsNotifier, workflow: Workflow) -> None:
    teams.tell(APPROVAL)
    [posted] = workflow.posts
    assert posted == json.loads(message(APPROVAL, ORIGIN))
    assert posted["type"] == "message"


@pytest.mark.parametrize("answers", [[(429, {"Retry-After": "7"})], [(503, {})] * 2, [(0, {})], [(500, {}), (408, {})]])
def test_what_passes_is_waited_for(
    teams: TeamsNotifier, workflow: Workflow, slept: list[float], answers: list[tuple[int, dict[str, str]]]
) -> None:
    workflow.answers = list(answers)
    teams.tell(VERIFIED)
    assert workflow.posts[-1] == json.loads(message(VERIFIED, ORIGIN))
    assert sum(slept) >= (7 if answers[0][0] == 429 else 0.5)


def test_cards_are_posted_no_faster_than_they_are_taken(teams: TeamsNotifier, slept: list[float]) -> None:
    for wave in range(4):
        teams.tell({**PROGRESS, "title": f"wave {wave}"})
    assert sum(0.2 < pause <= 0.3 for pause in slept) == 3


def test_what_does_not_pass_is_retried_by_the_queue(teams: TeamsNotifier, workflow: Workflow) -> None:
    workflow.answers = [(503, {})] * 9
    with pytest.raises(Retry, match="Teams does not take the card now") as caught:
        teams.tell(APPROVAL)
    assert SECRET not in str(caught.value)
    workflow.answers = [(429, {"Retry-After": "3600"})]
    with pytest.raises(Retry):
        teams.tell(APPROVAL)


def test_a_url_that_is_no_longer_valid_is_said_so_without_it(teams: TeamsNotifier, workflow: Workflow) -> None:
    workflow.answers = [(401, {})]
    with pytest.raises(Misconfigured, match="answers 401: is TeamsWorkflowUrl still valid") as caught:
        teams.tell(APPROVAL)
    assert SECRET not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_a_retired_connector_is_refused_with_the_reason(database: Database) -> None:
    settings = Settings({"TeamsWorkflowUrl": f"https://plant.webhook.office.com/webhookb2/1?{SECRET}"})
    with pytest.raises(Misconfigured, match="Office 365 connector: those are retired") as caught:
        TeamsNotifier(settings, SqliteStore(database)).tell(APPROVAL)
    assert SECRET not in str(caught.value)


def test_without_a_url_nothing_is_posted(database: Database) -> None:
    TeamsNotifier(Settings({}), SqliteStore(database)).tell(APPROVAL)


def test_what_was_posted_is_not_posted_again(teams: TeamsNotifier, workflow: Workflow) -> None:
    workflow.answers = [(400, {})]
    with pytest.raises(Refused, match=r"refuses the card \(400\)"):
        teams.tell(PROGRESS)
    for _ in range(3):
        teams.tell(PROGRESS)
    teams.tell({**PROGRESS, "id": "another"})
    assert len(workflow.posts) == 3, "refused, posted, and another card of the same words"


PAGE = """<!doctype html><meta charset="utf-8"><body style="width:560px;font-family:sans-serif">
<script src="{script}"></script><script>
const style = {{spacing: {{padding: 16}}, fontFamily: "Segoe UI, sans-serif"}};
for (const content of {cards}) {{
  const card = new AdaptiveCards.AdaptiveCard();
  card.hostConfig = new AdaptiveCards.HostConfig(style);
  card.parse(content);
  const shown = card.render();
  shown.style.border = "1px solid #ccc"; shown.style.marginBottom = "16px";
  document.body.appendChild(shown);
}}
</script>"""


@pytest.mark.wire
def test_a_browser_shows_the_cards_and_their_words_as_words(tmp_path: Path) -> None:
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("no Chromium, or no npm")
    setup.node()
    script = setup.NODE / "node_modules/adaptivecards/dist/adaptivecards.min.js"
    hostile = {**APPROVAL, "text": HOSTILE, "facts": {"candidate": HOSTILE}}
    cards = [json.loads(message(card, ORIGIN))["attachments"][0]["content"] for card in (*CARDS, hostile)]
    page = tmp_path / "cards.html"
    page.write_text(PAGE.format(script=script.as_uri(), cards=json.dumps(cards).replace("<", "\\u003c")))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    body = shown[shown.rindex("</script>") :]
    for words in ("Approval", APPROVAL["title"], APPROVAL["text"], "anna, ben", "Look, and answer", "Rolled back"):
        assert str(words) in body, words
    assert "[pay](https://evil.example) **bold** &lt;img src=x" in body
    assert "<img" not in body
    assert "\u202e" not in body, "what follows would be read from right to left"
    assert 'href="https://evil' not in body

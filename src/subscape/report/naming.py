"""Names of subnetworks from a language model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from subscape._checks import problem, require
from subscape.measures.record import Measures
from subscape.report.brief import contexts
from subscape.report.labels import LONGEST_NAME

N_CONTEXTS, SPAN = 10, (20, 5)
N_OUTPUTS = 8
LONGEST_ANSWER = 100_000
"""Bytes of an answer that are read."""
TASK = (
    "A part of a neural network is described by the inputs on which it matters most and by what it does to the "
    "outputs. Name what these inputs have in common, in at most eight words. Answer with the name alone. If "
    "nothing is in common, answer: unclear."
)
LOCAL = ("localhost", "127.0.0.1", "::1")


def description(measures: Measures, index: int) -> str | None:
    """What is told of a subnetwork; None where there is nothing in words."""
    entry, kept = measures[index], measures.samples
    lines = [
        f"- {before}[[{at}]]{after}"
        for before, at, after in contexts(measures, index, N_CONTEXTS, SPAN)
    ]
    if not lines and "labels" in kept:
        places = {sample: i for i, sample in enumerate(kept["index"].tolist())}
        classes = [
            kept["labels"][places[row.sample]].item() for row in entry.top_samples[:N_CONTEXTS]
        ]
        lines = [f"- an input of class {value}" for value in classes]
    top = entry.top_outputs
    for word, pairs in (("raises", top.up), ("lowers", top.down)) if top else ():
        named = [measures.names.outputs[i] for i, _ in pairs if i in measures.names.outputs]
        if named:
            lines.append(f"It {word}: {', '.join(map(repr, named[:N_OUTPUTS]))}")
    if not lines:
        return None
    return "\n".join(["Inputs, the token in question in [[ ]]:", *lines])


@dataclass(frozen=True)
class Endpoint:
    """Where a language model answers."""

    url: str
    """Up to `/v1`; `/chat/completions` is added."""
    model: str
    """Its name there."""
    key: str | None = field(default=None, repr=False)
    """What it is asked with, if any."""
    seconds: float = 60.0
    """To wait for an answer."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        web = parts.scheme in ("http", "https") and bool(parts.hostname)
        require(web, "endpoint", "a URL such as http://localhost:8000/v1", repr(self.url))
        safe = parts.scheme == "https" or parts.hostname in LOCAL or self.key is None
        repair = "Others on the way could read the key."
        require(safe, "endpoint", "https, where a key is sent", repr(self.url), repair)

    def name_of(self, told: str) -> str:
        """The name that the model gives for a description; empty where it says that there is none.

        Raises:
            ValueError: if it cannot be reached, or answers something else.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "system", "content": TASK}, {"role": "user", "content": told}],
            "temperature": 0,
        }
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        url = f"{self.url.rstrip('/')}/chat/completions"
        request = Request(url, json.dumps(body).encode(), headers)
        try:
            with build_opener(_NoRedirect).open(request, timeout=self.seconds) as answer:
                content = json.loads(answer.read(LONGEST_ANSWER))
            text = content["choices"][0]["message"]["content"]
            assert isinstance(text, str)
        except (URLError, HTTPException, OSError) as error:
            said = ""
            if isinstance(error, HTTPError):
                with error:  # an answer too, with a connection
                    said = f" ({error.read(300).decode(errors='replace')})"
            got = f"{url}: {error}{said}"
            repair = "Check URL, model and key."
            raise ValueError(problem("endpoint", "an answer", got, repair)) from error
        except (ValueError, LookupError, TypeError, AssertionError) as error:
            expected = "an answer with choices[0].message.content"
            raise ValueError(problem("endpoint", expected, f"something else from {url}")) from error
        return _tidy(text)


def _tidy(answer: str) -> str:
    """The last line of an answer, without quotes: models that think aloud end with it."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    name = lines[-1].strip(" \"'`*.")[:LONGEST_NAME] if lines else ""
    return "" if name.lower() == "unclear" else name


class _NoRedirect(HTTPRedirectHandler):
    """Nothing, the key least of all, is sent to where somebody points."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Not followed."""

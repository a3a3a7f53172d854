"""Requests drawn from the description of the API: no answer is a failure, or anything that it does not say."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving import Client, ended

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SETTINGS = settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
UPLOADS = ("file", "file_a", "file_b")
SENT = ("method", "url", "headers", "params", "data", "json", "files")


def test_answers_are_as_described(client: Client, tmp_path: Path, photograph: bytes) -> None:
    (tmp_path / "inbox").mkdir()
    served = client(folders={"inbox": tmp_path / "inbox"})
    job = ended(served, served.post("/v1/images", files={"files": photograph}).json())
    known = {
        "id": "0.png",
        "a": "1.png",
        "b": "2.png",
        "shortlist": ["3.png"],
        "scores": [1.0],
        "box": "9,9,99,99",
    }
    known |= {"folder": "inbox", "job_id": job["id"], "files": [photograph, b"x"]}
    schema = schemathesis.openapi.from_dict(served.get("/v1/openapi.json").json())
    seen: dict[str, set[int]] = defaultdict(set)

    def answered(case: Any, values: dict[str, Any]) -> None:
        """Send a request with values replaced, photographs named by their ids, and left out what is None."""
        for part in (case.query, case.path_parameters, case.body):
            for name in values.keys() & {*part, "id", "a", "b"} if isinstance(part, dict) else ():
                part[name] = values[name]
                if values[name] is None:
                    del part[name]
        sent = case.as_transport_kwargs(base_url="http://localhost")
        ready: Any = requests.Request(**{name: sent[name] for name in SENT if name in sent}).prepare()
        answer = served.request(ready.method, ready.url, content=ready.body or b"", headers=dict(ready.headers))
        case.validate_response(answer, checks=CHECKS)
        seen[case.operation.label].add(answer.status_code)

    good = known | dict.fromkeys((*UPLOADS, "candidates", "top_n"))
    values = st.sampled_from([{}, good, good, good, dict.fromkeys(UPLOADS, photograph)])
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in sorted(operations, key=lambda each: each.method == "delete"):  # the last ones
        SETTINGS(given(operation.as_strategy(), values)(answered))()
    wanted = {each.label for each in operations} - {"PUT /v1/calibration"}  # nothing is proposed
    assert {label for label, found in seen.items() if min(found) < 300} >= wanted

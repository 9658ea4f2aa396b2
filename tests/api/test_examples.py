"""The examples of the API's documentation."""

from __future__ import annotations

import pytest
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel

from symadj.api.app import create_app
from symadj.api.bodies import body_of
from symadj.service.settings import Settings
from tests.api.routes import Endpoint, endpoints

WITH_BODY = [endpoint for endpoint in endpoints() if endpoint.has_body]


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=str)
def test_every_body_has_an_example_that_its_endpoint_takes(endpoint: Endpoint) -> None:
    body = body_of(endpoint.dependant)
    assert body is not None
    assert body.model is not None
    examples = body.model.model_json_schema().get("examples")
    assert examples, f"{body.model.__name__} has no example: give its model_config one, for /docs"
    for example in examples:
        body.model.model_validate(example)


def test_the_document_that_the_viewer_of_docs_reads_has_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    app = create_app(Settings(data=tmp_path_factory.mktemp("data")))
    document = app.openapi()
    bodies = {
        schema["$ref"].rpartition("/")[2]
        for methods in document["paths"].values()
        for operation in methods.values()
        if (schema := operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema"))
    }
    models: set[type[BaseModel]] = {
        body.model
        for route in iter_route_contexts(app.routes)
        if (body := body_of(getattr(route, "dependant", None))) and body.model is not None
    }
    assert bodies == {model.__name__ for model in models}
    assert all(document["components"]["schemas"][name]["examples"] for name in bodies)

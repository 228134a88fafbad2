"""What is told of a refusal, by a Status as API servers write them."""

from __future__ import annotations

from muster_agent.cluster.statuses import typed_error

QUOTING = {
    "message": 'Secret "db" is invalid: data[password]: Invalid value: "hunter2": must be base64; field is immutable',
    "reason": "Invalid",
    "details": {
        "causes": [
            {"reason": "FieldValueInvalid", "message": 'Invalid value: "hunter2"', "field": "data[password]"}
        ]
    },
}


def test_of_a_secret_only_reasons_and_fields_are_told() -> None:
    error = typed_error(422, QUOTING, "v1/Secret shop/db", "")
    assert error.code == "K006", "what kind of refusal it is, is still known"
    assert "hunter2" not in str(error)
    assert "Invalid (data[password]: FieldValueInvalid)" in error.message
    assert "hunter2" not in str(
        typed_error(500, {"message": "cannot store hunter2"}, "v1/Secret shop/db", "")
    )


def test_of_other_objects_the_servers_own_words_are_told() -> None:
    error = typed_error(
        422, {"message": "spec.replicas: must be positive"}, "apps/v1/Deployment shop/web", ""
    )
    assert (error.code, error.message) == ("K007", "spec.replicas: must be positive")

"""examples/deploy.py: what it would send, checked by botocore's own validator; nothing leaves this machine."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

SCRIPT = Path(__file__).parents[1] / "examples" / "deploy.py"
ENDPOINT = (
    *("endpoint", "--name", "my-endpoint", "--image", "image:1", "--role", "arn:aws:iam::123456789012:role/sagemaker"),
    *("--instance-type", "ml.g5.xlarge", "--model", "s3://bucket/folder/", "--env", "OPTION_MAX_MODEL_LEN=4096"),
)


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("deploy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client() -> Any:
    return boto3.client("sagemaker", region_name="eu-west-1", aws_access_key_id="none", aws_secret_access_key="none")


@pytest.mark.parametrize("more", [(), ("--async-output", "s3://bucket/answers/"), ("--model", "org/name")])
def test_an_endpoint(script: Any, client: Any, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]) -> None:
    """The stub checks names, types and required members of every request against the service's model."""
    given = script.parse([*ENDPOINT, *more])
    wanted = script.requests(given)
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:x/y"
    with Stubber(client) as stub:
        stub.add_response("create_model", {"ModelArn": arn}, wanted["create_model"])
        stub.add_response("create_endpoint_config", {"EndpointConfigArn": arn}, wanted["create_endpoint_config"])
        stub.add_response("create_endpoint", {"EndpointArn": arn}, wanted["create_endpoint"])
        stub.add_response("describe_endpoint", described(), {"EndpointName": "my-endpoint"})
        script.deploy(client, given)
        stub.assert_no_pending_responses()
    assert "my-endpoint is in service" in capsys.readouterr().out
    container = wanted["create_model"]["PrimaryContainer"]
    assert container["Environment"]["OPTION_MAX_MODEL_LEN"] == "4096"
    assert ("ModelDataSource" in container) != (container["Environment"].get("HF_MODEL_ID") == "org/name")
    assert ("AsyncInferenceConfig" in wanted["create_endpoint_config"]) == ("--async-output" in more)


def described() -> dict[str, Any]:
    times = dict.fromkeys(("CreationTime", "LastModifiedTime"), 0)
    names = {"EndpointName": "e", "EndpointArn": "arn:aws:sagemaker:eu-west-1:123456789012:x/y"}
    return {**names, **times, "EndpointStatus": "InService"}


def test_deleting(script: Any, client: Any) -> None:
    with Stubber(client) as stub:
        stub.add_response("delete_endpoint", {}, {"EndpointName": "e"})
        stub.add_response("delete_endpoint_config", {}, {"EndpointConfigName": "e"})
        stub.add_response("delete_model", {}, {"ModelName": "e"})
        script.delete(client, script.parse(["delete", "--name", "e"]).name)
        stub.assert_no_pending_responses()


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)


def test_a_dry_run_prints_the_requests(script: Any) -> None:
    done = run(*ENDPOINT, "--dry-run")
    assert (done.returncode, json.loads(done.stdout)) == (0, script.requests(script.parse([*ENDPOINT])))


def test_the_same_container_here(script: Any, tmp_path: Path) -> None:
    folder = script.parse(["local", "--image", "lmi-chat", "--model", str(tmp_path), "--env", "A=b=c", "--gpus", "all"])
    words = script.docker(folder)
    assert words[-2:] == ["lmi-chat", "serve"]
    assert {f"{tmp_path}:/opt/ml/model:ro", "--env=A=b=c", "8080:8080", "--gpus"} < {*words}
    hub = script.docker(script.parse(["local", "--image", "lmi-chat", "--model", "org/name", "--port", "9000"]))
    assert {"--env=HF_MODEL_ID=org/name", "9000:8080"} < {*hub}
    assert "--volume" not in hub


def test_arguments_are_checked() -> None:
    done = run("local", "--image", "lmi-chat", "--model", "x", "--env", "A")
    assert done.returncode == 2
    assert "'A' is not KEY=value" in done.stderr

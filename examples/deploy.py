"""An endpoint on SageMaker from the image that docker/Dockerfile makes; or the same container on this machine.

    pip install boto3
    python examples/deploy.py endpoint --name my-endpoint --image 123.dkr.ecr.eu-west-1.amazonaws.com/lmi-chat:1 \
        --role arn:aws:iam::123456789012:role/sagemaker --instance-type ml.g5.xlarge --model s3://bucket/folder/
    python examples/deploy.py delete --name my-endpoint
    python examples/deploy.py local --image lmi-chat --model ./folder

--model is a folder on S3 (for `local`: of this machine) or a hub id; --env OPTION_MAX_MODEL_LEN=4096 sets what
docs/configuration.md lists; --async-output s3://bucket/answers/ makes the endpoint an asynchronous one; --dry-run
prints what would be sent. Plain boto3: the SageMaker SDK would make these same three requests and brings in a hundred
packages.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import boto3

START_SECONDS = 1800  # fetching and loading a large model


def container(given: argparse.Namespace) -> dict[str, Any]:
    """What runs: image, settings, where the model comes from."""
    definition: dict[str, Any] = {"Image": given.image, "Environment": dict(given.env)}
    if given.model.startswith("s3://"):
        source = {"S3Uri": given.model, "S3DataType": "S3Prefix", "CompressionType": "None"}
        definition["ModelDataSource"] = {"S3DataSource": source}
    else:
        definition["Environment"]["HF_MODEL_ID"] = given.model
    return definition


def requests(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The three requests, by the name of boto3's method."""
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": given.name,
        "InstanceType": given.instance_type,
        "InitialInstanceCount": given.instances,
        "ModelDataDownloadTimeoutInSeconds": START_SECONDS,
        "ContainerStartupHealthCheckTimeoutInSeconds": START_SECONDS,
    }
    config: dict[str, Any] = {"EndpointConfigName": given.name, "ProductionVariants": [variant]}
    if given.async_output:
        config["AsyncInferenceConfig"] = {"OutputConfig": {"S3OutputPath": given.async_output}}
    return {
        "create_model": {
            "ModelName": given.name,
            "ExecutionRoleArn": given.role,
            "PrimaryContainer": container(given),
        },
        "create_endpoint_config": config,
        "create_endpoint": {"EndpointName": given.name, "EndpointConfigName": given.name},
    }


def deploy(client: Any, given: argparse.Namespace) -> None:
    for method, request in requests(given).items():
        getattr(client, method)(**request)
    print(f"{given.name} is being created; that takes some minutes …")
    client.get_waiter("endpoint_in_service").wait(EndpointName=given.name)
    print(f"{given.name} is in service: lmi-chat chat {given.name}")


def delete(client: Any, name: str) -> None:
    client.delete_endpoint(EndpointName=name)
    client.delete_endpoint_config(EndpointConfigName=name)
    client.delete_model(ModelName=name)


def docker(given: argparse.Namespace) -> list[str]:
    """The container as SageMaker starts it: `serve`, port 8080, the model's folder read-only."""
    words = ["docker", "run", "--rm", "--init", "--publish", f"{given.port}:8080"]
    env = dict(given.env)
    if Path(given.model).is_dir():
        words += ["--volume", f"{Path(given.model).resolve()}:/opt/ml/model:ro"]
    else:
        env["HF_MODEL_ID"] = given.model
    if given.gpus:
        words += ["--gpus", given.gpus]
    return [*words, *(f"--env={key}={value}" for key, value in env.items()), given.image, "serve"]


def pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=value")
    return key, value


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    endpoint, local = commands.add_parser("endpoint"), commands.add_parser("local")
    for command in (endpoint, local):
        command.add_argument("--image", required=True)
        command.add_argument("--model", required=True)
        command.add_argument("--env", action="append", default=[], type=pair, metavar="KEY=value")
        command.add_argument("--dry-run", action="store_true")
    endpoint.add_argument("--role", required=True)
    endpoint.add_argument("--instance-type", required=True)
    endpoint.add_argument("--instances", type=int, default=1)
    endpoint.add_argument("--async-output", default="", metavar="s3://…")
    local.add_argument("--port", type=int, default=8080)
    local.add_argument("--gpus", default="", help="as docker's own, for example all")
    for command in (endpoint, commands.add_parser("delete")):
        command.add_argument("--name", required=True)
    return parser.parse_args(words)


def main() -> None:
    given = parse()
    if given.command == "local":
        words = docker(given)
        print(" ".join(words))
        if not given.dry_run:
            raise SystemExit(subprocess.run(words, check=False).returncode)
    elif given.command == "endpoint" and given.dry_run:
        print(json.dumps(requests(given), indent=2))
    else:
        client = boto3.client("sagemaker")
        if given.command == "delete":
            delete(client, given.name)
        else:
            deploy(client, given)


if __name__ == "__main__":
    main()

"""SageMaker's client as it is, run in an environment of its own: what it got, as JSON on standard output.

python sagemaker_client.py PORT
"""

import json
import sys

import boto3
from botocore.exceptions import ClientError

ROWS = [[5.0, 2, "red", True, "2024-05-31T09:30:00"], [None, 0, None, False, None]]
CSV = "5,2,red,true,2024-05-31T09:30:00\n,0,,false,\n"


def main(port):
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="eu-west-1",
        aws_access_key_id="anybody",
        aws_secret_access_key="anything",
    )

    def invoke(body, kind, **said):
        answer = runtime.invoke_endpoint(EndpointName="flowers", Body=body, ContentType=kind, **said)
        return [answer["ContentType"], answer["Body"].read().decode()]

    rows = json.dumps({"instances": ROWS})
    lines = "\n".join(json.dumps(row) for row in ROWS)
    got = {
        "json": invoke(rows, "application/json", CustomAttributes="trace=1", InferenceId="one"),
        "csv": invoke(CSV, "text/csv", Accept="text/csv"),
        "lines": invoke(lines, "application/jsonlines", Accept="application/json"),
    }
    try:
        invoke('{"instances": [[1]]}', "application/json")
    except ClientError as error:
        got["refused"] = [error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]]
    sys.stdout.write(json.dumps(got))


if __name__ == "__main__":
    main(int(sys.argv[1]))

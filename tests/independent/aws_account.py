#!/usr/bin/env python3
"""Fills an empty account of a moto server through boto3, and from then on lets the server check who asks.

    aws_account.py URL REGION

moto then recomputes every request's signature by botocore, which shares no code with the guest components, and evaluates
the policies. Prints JSON: a key of AWS KMS that the guest may use and a data key wrapped with it, a secret of AWS Secrets
Manager, and two access keys: of a role with these rights (temporary, with a session token) and of a user without any.
"""

import base64
import json
import sys
import urllib.request

import boto3

DATA_KEY = bytes(range(32))
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["kms:Encrypt", "kms:Decrypt", "secretsmanager:GetSecretValue"],
            "Resource": "*",
        }
    ],
}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
}


def main(url, region):
    def client(service):
        return boto3.client(
            service,
            endpoint_url=url,
            region_name=region,
            aws_access_key_id="AKIASETUP",
            aws_secret_access_key="setup",
        )

    kms, secrets, iam = client("kms"), client("secretsmanager"), client("iam")
    key = kms.create_key()["KeyMetadata"]
    kms.create_alias(AliasName="alias/kek", TargetKeyId=key["KeyId"])

    context = {"team": "a"}
    wrapped = kms.encrypt(KeyId=key["KeyId"], Plaintext=DATA_KEY, EncryptionContext=context)["CiphertextBlob"]

    first = secrets.create_secret(Name="app/db", SecretString="first p\u00e4ss")
    second = secrets.put_secret_value(SecretId="app/db", SecretString="second p\u00e4ss")
    secrets.create_secret(Name="app/binary", SecretBinary=b"\x00\x01binary")

    role = iam.create_role(RoleName="guest", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
    iam.put_role_policy(RoleName="guest", PolicyName="use", PolicyDocument=json.dumps(POLICY))
    temporary = client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="guest")["Credentials"]
    iam.create_user(UserName="nobody")
    powerless = iam.create_access_key(UserName="nobody")["AccessKey"]

    # From here on every request must be signed by a known key and allowed by a policy.
    headers = {"Content-Type": "text/plain"}
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/moto-api/reset-auth", data=b"0", method="POST", headers=headers)
    )
    print(
        json.dumps(
            {
                "data_key": DATA_KEY.hex(),
                "key_id": key["KeyId"],
                "key_arn": key["Arn"],
                "wrapped": base64.b64encode(wrapped).decode(),
                "context": context,
                "secret_arn": first["ARN"],
                "versions": [first["VersionId"], second["VersionId"]],
                "role": {
                    "access_key_id": temporary["AccessKeyId"],
                    "secret_access_key": temporary["SecretAccessKey"],
                    "session_token": temporary["SessionToken"],
                },
                "nobody": {
                    "access_key_id": powerless["AccessKeyId"],
                    "secret_access_key": powerless["SecretAccessKey"],
                },
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

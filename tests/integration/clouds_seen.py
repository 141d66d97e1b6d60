"""Prints what the emulated clouds have of one deployment, asked of their APIs, and plays the stranger who changes it.

`python clouds_seen.py ENDPOINTS DEPLOYMENT [meddle]`, inside the rehearsal's network.
"""

import base64
import json
import sys
from pathlib import Path

import boto3
from clouddeploy_providers.azure.clients import connect
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_rehearsal.world import load_endpoints


def ec2_of(endpoint):
    return boto3.client(
        "ec2",
        region_name="us-west-2",
        endpoint_url=endpoint.url,
        aws_access_key_id=endpoint.access_key_id,
        aws_secret_access_key=endpoint.secret_access_key,
    )


def aws(ec2, deployment):
    ours = [{"Name": f"tag:{TAG_DEPLOYMENT}", "Values": [deployment]}]
    found = [one for each in ec2.describe_instances(Filters=ours)["Reservations"] for one in each["Instances"]]
    alive = [one for one in found if one["State"]["Name"] != "terminated"]

    def user_data(one):
        answer = ec2.describe_instance_attribute(InstanceId=one["InstanceId"], Attribute="userData")
        return base64.b64decode(answer["UserData"]["Value"]).decode()

    groups = ec2.describe_security_groups(Filters=ours)["SecurityGroups"]
    return {
        "instances": [one["InstanceId"] for one in alive],
        "groups": [one["GroupId"] for one in groups],
        "metadata": sorted({one["MetadataOptions"]["HttpTokens"] for one in alive}),
        "identities": [one["IamInstanceProfile"] for one in alive if one.get("IamInstanceProfile")],
        "user_data": [user_data(one) for one in alive],
        "encrypted": sorted({one["Encrypted"] for one in ec2.describe_volumes(Filters=ours)["Volumes"]}),
        "rules": sorted(
            [rule["FromPort"], block["CidrIp"]]
            for group in groups
            for rule in group["IpPermissions"]
            for block in rule["IpRanges"]
        ),
    }


def azure(clients, deployment):
    wanted = f"tagName eq '{TAG_DEPLOYMENT}' and tagValue eq '{deployment}'"
    groups = [one.name for one in clients.resources.resource_groups.list(filter=wanted)]
    machines = [one for group in groups for one in clients.compute.virtual_machines.list(group)]
    firewalls = [one for group in groups for one in clients.network.network_security_groups.list(group)]
    addresses = [one for group in groups for one in clients.network.public_ip_addresses.list(group)]
    resources = [one for group in groups for one in clients.resources.resources.list_by_resource_group(group)]
    return {
        # A disk gets the tags of its machine from Azure itself, at birth.
        "untagged": [
            one.name
            for one in resources
            if (one.tags or {}).get(TAG_DEPLOYMENT) != deployment and not one.type.endswith("/disks")
        ],
        "passwords": [one.name for one in machines if not no_password(one)],
        "identities": [one.name for one in machines if one.identity],
        "address_skus": sorted({one.sku.name for one in addresses}),
        "rules": sorted(
            [int(rule.destination_port_range), source]
            for one in firewalls
            for rule in one.security_rules
            if rule.direction == "Inbound"
            for source in rule.source_address_prefixes or [rule.source_address_prefix]
        ),
    }


def no_password(machine):
    return machine.os_profile.linux_configuration.disable_password_authentication


def meddle(ec2, seen):
    """Stops the instances and opens their firewall, as a stranger in the console would."""
    for group in seen["groups"]:
        ec2.authorize_security_group_ingress(
            GroupId=group,
            IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
        )
    ec2.stop_instances(InstanceIds=seen["instances"])


def main(file, deployment, *verbs):
    endpoints = load_endpoints(Path(file))
    ec2 = ec2_of(endpoints.aws)
    seen = aws(ec2, deployment)
    if "meddle" in verbs:
        meddle(ec2, seen)
    clients = connect({}, endpoints.azure, subscription=endpoints.azure.subscription_id)
    json.dump({"aws": seen, "azure": azure(clients, deployment)}, sys.stdout)


main(*sys.argv[1:])

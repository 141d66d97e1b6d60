import pytest
from clouddeploy_providers.aws import sizes
from clouddeploy_providers.aws.prices import Prices
from clouddeploy_providers.resources import Need


class Ec2:
    """Describes some sizes, a page each, of which one is not sold."""

    TYPES = (
        ("c9.large", 2, 4096, ("x86_64",), {}),
        ("t3.small", 2, 2048, ("i386", "x86_64"), {}),
        (
            "g5.xlarge",
            4,
            16384,
            ("x86_64",),
            {"Gpus": [{"Name": "A10G", "Manufacturer": "NVIDIA", "Count": 1, "MemoryInfo": {"SizeInMiB": 24576}}]},
        ),
        (
            "g4ad.xlarge",
            4,
            16384,
            ("x86_64",),
            {"Gpus": [{"Name": "Radeon Pro V520", "Manufacturer": "AMD", "Count": 1}]},
        ),
        ("m9g.large", 2, 8192, ("arm64",), {}),
    )
    SOLD = (("c9.large", "b"), ("t3.small", "b"), ("t3.small", "a"), ("g5.xlarge", "a"), ("g4ad.xlarge", "a"))

    def __init__(self):
        self.filters = []

    def get_paginator(self, verb):
        return {"describe_instance_types": self.types, "describe_instance_type_offerings": self.offerings}[verb]()

    def types(self):
        return Pages(
            self,
            [
                {
                    "InstanceTypes": [
                        {
                            "InstanceType": name,
                            "VCpuInfo": {"DefaultVCpus": vcpus},
                            "MemoryInfo": {"SizeInMiB": mib},
                            "ProcessorInfo": {"SupportedArchitectures": list(architectures)},
                            "GpuInfo": gpus,
                        }
                    ]
                }
                for name, vcpus, mib, architectures, gpus in self.TYPES
            ],
        )

    def offerings(self):
        return Pages(
            self, [{"InstanceTypeOfferings": [{"InstanceType": size, "Location": zone}]} for size, zone in self.SOLD]
        )


class Pages:
    def __init__(self, ec2, pages):
        self.ec2, self.pages = ec2, pages

    def paginate(self, **given):
        self.ec2.filters.append(given.get("Filters", []))
        return self.pages


def offered(need, ec2=None):
    return sizes.offers(ec2 or Ec2(), need, Prices("us-east-1"))


def test_the_cheapest_comes_first_the_unpriced_last_and_what_is_not_sold_here_not_at_all():
    assert [one.size for one in offered(Need())] == [
        "t3.small",
        "g5.xlarge",
        "c9.large",
        "g4ad.xlarge",
    ]


def test_an_offer_says_where_it_is_sold_and_what_its_gpu_is():
    [offer] = offered(Need(gpus=1, gpu_memory_gib=20))
    assert (offer.size, offer.gpus, offer.gpu_memory_gib, offer.gpu_name) == ("g5.xlarge", 1, 24, "A10G")
    assert [one.zones for one in offered(Need(memory_gib=2)) if one.size == "t3.small"] == [("a", "b")]
    assert offered(Need(gpus=1, gpu_memory_gib=40)) == []


def test_a_gpu_that_runs_no_cuda_is_none_to_us():
    """It would be the cheapest, and no training would find it."""
    assert [one.size for one in offered(Need(gpus=1))] == ["g5.xlarge"]
    [radeon] = [one for one in offered(Need()) if one.size == "g4ad.xlarge"]
    assert (radeon.gpus, radeon.gpu_name) == (0, "")


def test_only_current_generations_are_asked_for_and_no_bare_metal():
    ec2 = Ec2()
    offered(Need(gpus=1), ec2)
    asked = {one["Name"]: one["Values"] for one in ec2.filters[0]}
    assert asked == {
        "current-generation": ["true"],
        "bare-metal": ["false"],
        "supported-usage-class": ["on-demand"],
        "instance-type": ["g*", "p*"],
    }


@pytest.mark.parametrize(
    "size", ["t4g.small", "m6g.large", "c7gn.xlarge", "x2gd.large", "im4gn.large", "g5g.xlarge", "a1.large"]
)
def test_gravitons_are_known_by_their_name(size):
    assert sizes.architecture_of(size) == "arm64"


@pytest.mark.parametrize("size", ["t3.small", "g4dn.xlarge", "g5.xlarge", "g6e.xlarge", "p4d.24xlarge", "inf2.xlarge"])
def test_all_others_are_of_the_usual_architecture(size):
    assert sizes.architecture_of(size) == "x86_64"

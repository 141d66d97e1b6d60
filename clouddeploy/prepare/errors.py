"""What `prepare` refuses; nothing was written then, and an earlier output is still there.

ConfigError               INVALID_CONFIG: a key or a value is wrong           exit 4
└── PrepareError          DEPLOY_PREPARE_FAILED: a file cannot be written     exit 4
    ├── ConfigNotFound    CONFIG_NOT_FOUND
    ├── InvalidKit        INVALID_KIT: not a kit, or not as it was signed
    ├── UnsupportedKit    UNSUPPORTED_KIT: of an admin or a relay
    ├── InvalidArguments  INVALID_ARGS: the output is, or would hide, the kit
    └── OutputStaged      OUTPUT_STAGED: a cluster has what is there

Errors of kits and of the system become one of these in `prepare.preparing`.
"""

from __future__ import annotations

from clouddeploy.errors import ConfigError


class PrepareError(ConfigError):
    """A kit could not be prepared."""

    error_code = "DEPLOY_PREPARE_FAILED"


class ConfigNotFound(PrepareError):
    """There is no file that says for which runtime."""

    error_code = "CONFIG_NOT_FOUND"


class InvalidKit(PrepareError):
    """What was named is no startup kit, or is not as it was signed."""

    error_code = "INVALID_KIT"


class UnsupportedKit(PrepareError):
    """A kit of a kind that has no process of its own to prepare."""

    error_code = "UNSUPPORTED_KIT"


class InvalidArguments(PrepareError):
    """The place for the output cannot be used."""

    error_code = "INVALID_ARGS"


class OutputStaged(PrepareError):
    """A cluster has what an earlier `prepare` wrote there; it would not know any more what to remove."""

    error_code = "OUTPUT_STAGED"

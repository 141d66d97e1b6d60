"""How often a property is tried."""

import os


def often(usually, *, nightly):
    """Returns how many cases to try: few beside all other tests, many when nobody waits (CLOUDDEPLOY_NIGHTLY=1)."""
    return nightly if os.environ.get("CLOUDDEPLOY_NIGHTLY") else usually

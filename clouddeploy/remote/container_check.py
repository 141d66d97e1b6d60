"""Whether an image has what a site needs: `python3 THIS MODULE VERSION [DISTRIBUTION …]`; needs nothing but Python.

Runs in the image, whose Python may be too old for more than this file needs to say so. The last line says what it has,
or what it lacks.
"""

import importlib
import sys


def refuse(why: str) -> None:
    """Says what is wrong with the image and ends with status 1."""
    sys.stdout.write(why + "\n")
    sys.exit(1)


def main() -> None:
    """Does what the command line says."""
    module, wanted, *names = sys.argv[1:]
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if sys.version_info < (3, 11):  # noqa: UP036 - that is the question
        refuse(f"its python3 is {python}, and a site needs 3.11 or newer")
    from importlib import metadata  # noqa: PLC0415 - newer than the oldest that has to come here

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return ""

    try:
        importlib.import_module(module)
    except ImportError as error:
        refuse(f"its python3 cannot import {module}, which runs the site: {error}")
    missing = [name for name in names if not version(name)]
    if missing:
        refuse(f"it lacks what the startup kit asks for: {', '.join(missing)}")
    found = version(module)
    if wanted not in {"", found}:
        sys.stdout.write(f"warning: the image has {module} {found or 'of an unknown version'}, and this is {wanted}\n")
    sys.stdout.write(f"it has {module} {found} on Python {python}\n")


if __name__ == "__main__":
    main()

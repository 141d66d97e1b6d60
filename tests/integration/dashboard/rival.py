"""One of two processes on the same database: does what each line of its standard input says, and tells how it ended.

Arguments: URL of the database, and a folder of its own. Lines: approve ID, move ID, sign_up EMAIL.
"""

import json
import sys
from pathlib import Path

from argon2 import PasswordHasher

from clouddeploy.dashboard import approvals, logins, model, people
from clouddeploy.dashboard.opening import open_desk
from clouddeploy.dashboard.passwords import Passwords
from clouddeploy.errors import DeployError
from clouddeploy.secrets import Secret

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def main(url, folder):
    desk = open_desk(Path(folder), passphrase=Secret("of the authority"), url=url, passwords=Passwords(CHEAP))
    with desk.visit() as visit:
        root = logins.actor_of(visit.db.get_one(model.User, 1))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        try:
            done = act(desk, root, *line.split())
        except DeployError as error:
            done = error.error_code
        sys.stdout.write(json.dumps(done) + "\n")
        sys.stdout.flush()


def act(desk, root, what, given):
    if what == "sign_up":
        body = {"email": given, "password": "four words in a row", "organization": "org_a", "role": "lead"}
        people.sign_up(desk, body, address="192.0.2.1")
        return "done"
    changes = {"approval_state": 100} if what == "approve" else {"organization": "org_b"}
    with desk.visit(root) as visit:
        seen = approvals.digest(people.get(visit, int(given))) if what == "approve" else ""
    with desk.visit(root) as visit:
        before = decisions(desk)
        people.change(visit, int(given), changes, seen=(seen,) if seen else None)
        return "decided" if decisions(desk) > before else "done"


def decisions(desk):
    log = desk.folder / "audit.jsonl"
    return log.read_text().count('"approve_user"') if log.exists() else 0


if __name__ == "__main__":
    main(*sys.argv[1:])

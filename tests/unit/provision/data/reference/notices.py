"""Builders in the words of the reference's Open Provision API, which import nothing of ours."""

# ruff: noqa: PTH110, PTH118, PTH123, UP015 - written in the reference's style on purpose

import os

from nvflare.lighter.constants import CtxKey, ParticipantType
from nvflare.lighter.ctx import ProvisionContext
from nvflare.lighter.entity import Participant, Project
from nvflare.lighter.spec import Builder, Packager


class NoticeBuilder(Builder):
    def __init__(self, text: str):
        self.text = text

    def initialize(self, project: Project, ctx: ProvisionContext):
        ctx.load_templates("notice_template.yml")
        ctx["notices"] = []

    def build(self, project: Project, ctx: ProvisionContext):
        for admin in project.get_participants_by_type(ParticipantType.ADMIN, first_only=False):
            self._write(admin, ctx)
        for client in project.get_clients():
            with open(os.path.join(ctx.get_local_dir(client), "org.txt"), "wt") as file:
                file.write(f"{client.subject} of {client.get_prop('org')}, to {ctx[CtxKey.SERVER_NAME]}")

    def _write(self, admin: Participant, ctx: ProvisionContext):
        ctx.build_from_template(
            ctx.get_kit_dir(admin), "notice", "notice.txt", {"name": admin.name, "text": self.text}, exe=False
        )
        ctx["notices"].append(admin.name)

    def finalize(self, project: Project, ctx: ProvisionContext):
        ctx.info(f"{len(ctx['notices'])} notices")
        with open(os.path.join(ctx.get_wip_dir(), "notices.txt"), "wt") as file:
            file.write("\n".join(ctx["notices"]))


class ListPackager(Packager):
    def __init__(self, file_name: str):
        self.file_name = file_name

    def package(self, project: Project, ctx: ProvisionContext):
        result = ctx.get_result_location()
        names = [one.name for one in project.get_all_participants()]
        assert all(os.path.exists(os.path.join(result, name, "startup", "manifest.json")) for name in names)
        with open(os.path.join(result, self.file_name), "wt") as file:
            file.write(" ".join(names))

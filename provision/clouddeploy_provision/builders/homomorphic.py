"""Keys for homomorphic encryption: the server adds encrypted updates without being able to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_provision.errors import BuilderFailed
from clouddeploy_provision.kit_tree import PRIVATE
from clouddeploy_provision.spec import Builder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_provision.project import Project
    from clouddeploy_provision.spec import Context

SERVER_CONTEXT = "startup/server_context.tenseal"
CLIENT_CONTEXT = "startup/client_context.tenseal"
SHARED_SUFFIX = ".tenseal"
"""End of the names of what all clients share: whoever is shut out must not know the next one."""


class HEBuilder(Builder):
    """Adds a TenSEAL context to each site: without the secret key for the server, with it for the clients.

    A context is made once and then carried over with the kits, since all clients must share it; other arguments make
    another one.

    Args:
        poly_modulus_degree: degree of the polynomials.
        coeff_mod_bit_sizes: bits of the moduli.
        scale_bits: binary logarithm of the scale.
        scheme: only CKKS.
    """

    def __init__(
        self,
        poly_modulus_degree: int = 8192,
        coeff_mod_bit_sizes: Sequence[int] = (60, 40, 40),
        scale_bits: int = 40,
        scheme: str = "CKKS",
    ) -> None:
        self._degree = poly_modulus_degree
        self._bit_sizes = list(coeff_mod_bit_sizes)
        self._scale_bits = scale_bits
        self._scheme = scheme

    def build(self, project: Project, ctx: Context) -> None:
        """Add the contexts."""
        try:
            context: Any = self._context()
            carried = next((found for one in project.clients if (found := ctx.carried(one, CLIENT_CONTEXT))), None)
            of_server = ctx.carried(project.server, SERVER_CONTEXT)
            if carried is None or of_server is None or not _is_like(context, carried):
                of_server, carried = _keys(context)
        except (ValueError, RuntimeError, TypeError) as exc:
            raise BuilderFailed(
                "the encryption context cannot be made", why=str(exc), hint="see HEBuilder's args"
            ) from exc
        ctx.add_file(project.server, SERVER_CONTEXT, of_server)
        for one in project.clients:
            ctx.add_file(one, CLIENT_CONTEXT, carried, PRIVATE)

    def _context(self) -> Any:
        context = _tenseal().context(
            _tenseal().SCHEME_TYPE[self._scheme],
            poly_modulus_degree=self._degree,
            coeff_mod_bit_sizes=self._bit_sizes,
        )
        context.global_scale = 2**self._scale_bits
        return context


def _tenseal() -> Any:
    try:
        import tenseal  # noqa: PLC0415 - 5 MB that only these projects need
    except ImportError as exc:
        raise BuilderFailed(
            "HEBuilder needs the package tenseal", why=str(exc), hint="pip install 'clouddeploy[he]'"
        ) from exc
    return tenseal


def _is_like(context: Any, carried: bytes) -> bool:
    """Tell whether the last result's context was made with the same arguments."""

    def parameters(one: Any) -> tuple[list[int], float]:
        return list(one.seal_context().data.key_context_data().parms_id()), one.global_scale

    return parameters(context) == parameters(_tenseal().context_from(carried))


def _keys(context: Any) -> tuple[bytes, bytes]:
    """Return the context for the server and the one for the clients, with the secret key."""
    context.generate_galois_keys()
    context.generate_relin_keys()
    with_secret: bytes = context.serialize(save_secret_key=True)
    context.make_context_public()
    return context.serialize(), with_secret

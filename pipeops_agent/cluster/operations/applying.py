"""Objects as manifests want them: server-side apply, and create."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.api import FIELD_MANAGER
from pipeops_agent.cluster.call import APPLY_PATCH, JSON, Call
from pipeops_agent.cluster.discovery import NotServed
from pipeops_agent.cluster.errors import ClusterError, StatusError
from pipeops_agent.cluster.operations.base import (
    Arguments,
    BadRequest,
    Kit,
    Object,
    Result,
    Run,
    Target,
    counted,
    namespace_of,
)
from pipeops_agent.cluster.operations.manifests import Manifest, read_manifests
from pipeops_agent.cluster.operations.yamltext import MAX_TEXT
from pipeops_agent.cluster.scope import APPLYING, OutOfReach
from pipeops_agent.cluster.served import ApiResource
from pipeops_agent.scheduling import sleep

NEW_KIND_PATIENCE: Final = 15.0
"""Seconds that the server may take to serve a kind whose CRD comes with the same text: it takes two."""

_LOOK: Final = 0.5


class SendArguments(Arguments, frozen=True, kw_only=True):
    """
    What is sent.

    @ivar manifest: YAML or JSON, one or several documents.
    @ivar dry_run: C{first}: everything as a dry run, and then, where all of it would pass, in earnest;
        C{only}: the dry run alone.
    @ivar on_error: whether the documents after one that fails are sent all the same.
    """

    manifest: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
    dry_run: Literal["none", "first", "only"] = "none"
    on_error: Literal["stop", "continue"] = "stop"


class ApplyArguments(SendArguments, frozen=True, kw_only=True):
    """
    What is applied.

    @ivar force: take over fields that others manage.
    """

    force: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """
    What became of one object.

    @ivar action: C{applied}: it was there before, changed or not; C{passed}: in a dry run; C{unchecked}: a
        dry run can't tell, as its namespace or kind comes with the same text; C{skipped}: one before it
        failed.
    @ivar error: a sentence, where it failed.
    """

    document: int
    line: int
    object: str
    action: Literal["created", "applied", "passed", "unchecked", "failed", "skipped"]
    error: str = ""


class Sent(Result, frozen=True, kw_only=True):
    """
    What became of each object, in the order in which they were sent.

    @ivar dry_run: nothing was changed.
    """

    objects: list[Outcome]
    dry_run: bool = False


async def apply(caller: Caller, kit: Kit, target: Target, arguments: ApplyArguments, run: Run) -> Sent:
    """
    Server-side apply, as L{FIELD_MANAGER}. Namespaces and CRDs go first.

    @param target: its namespace is that of objects that name none.
    @raise BadManifest: the text holds no objects that could be sent; then nothing was.
    """
    return await _send(caller, kit, target, arguments, run, force=arguments.force, creating=False)


async def create(caller: Caller, kit: Kit, target: Target, arguments: SendArguments, run: Run) -> Sent:
    """Make objects that are not there yet; see L{apply}."""
    return await _send(caller, kit, target, arguments, run, force=False, creating=True)


async def _send(
    caller: Caller,
    kit: Kit,
    target: Target,
    arguments: SendArguments,
    run: Run,
    *,
    force: bool,
    creating: bool,
) -> Sent:
    if target.type or target.name:
        raise BadRequest("the manifest says what is meant: the target may have a namespace and nothing else")
    manifests = await read_manifests(kit.clock, arguments.manifest)
    sender = _Sender(caller, kit, target, manifests, run, force=force, creating=creating)
    go_on = arguments.on_error == "continue"
    if arguments.dry_run != "none":
        outcomes = await sender.all(go_on=True, dry_run=True)
        if arguments.dry_run == "only" or any(outcome.action == "failed" for outcome in outcomes):
            return _sent(outcomes, dry_run=True)
    return _sent(await sender.all(go_on=go_on, dry_run=False), dry_run=False)


def _sent(outcomes: Sequence[Outcome], *, dry_run: bool) -> Sent:
    failed = [outcome for outcome in outcomes if outcome.action == "failed"]
    error = ""
    if failed:
        nothing = "; it was a dry run, nothing was changed" if dry_run else ""
        count = counted(len(outcomes), "object")
        error = f"{len(failed)} of {count} failed: {failed[0].error}{nothing}"
    return Sent(success=not failed, error=error, objects=list(outcomes), dry_run=dry_run)


class _Sender:
    """Sends the objects of one text, once or twice."""

    def __init__(
        self,
        caller: Caller,
        kit: Kit,
        target: Target,
        manifests: Sequence[Manifest],
        run: Run,
        *,
        force: bool,
        creating: bool,
    ) -> None:
        self._caller = caller
        self._kit = kit
        self._target = target
        self._manifests = manifests
        self._run = run
        self._force = force
        self._creating = creating
        self._new_kinds = {_kind_of(manifest) for manifest in manifests if manifest.is_crd}
        self._made_kinds: set[tuple[str, str]] = set()
        self._new_namespaces = {manifest.name for manifest in manifests if manifest.kind == "Namespace"}

    async def all(self, *, go_on: bool, dry_run: bool) -> list[Outcome]:
        """Send everything; where one fails and it is not to C{go_on}, the rest is skipped."""
        outcomes: list[Outcome] = []
        failed = False
        for manifest in self._manifests:
            if failed and not go_on:
                outcome = _outcome(manifest, "skipped")
            else:
                outcome = await self._one(manifest, dry_run=dry_run)
            failed = failed or outcome.action == "failed"
            outcomes.append(outcome)
            said = f"{outcome.action}{f': {outcome.error}' if outcome.error else ''}"
            self._run.say(said, about=outcome.object, done=len(outcomes), total=len(self._manifests))
        return outcomes

    async def _one(self, manifest: Manifest, *, dry_run: bool) -> Outcome:
        unknown = False
        try:
            try:
                served = await self._kind(manifest)
            except NotServed:
                unknown = (manifest.api_version.partition("/")[0], manifest.kind) in self._new_kinds
                raise
            created = await self._request(manifest, served, dry_run=dry_run)
        except (ClusterError, OutOfReach) as error:
            missing = isinstance(error, StatusError) and error.not_found
            if dry_run and (unknown or (missing and self._namespace(manifest) in self._new_namespaces)):
                return _outcome(manifest, "unchecked")
            return _outcome(manifest, "failed", f"{manifest.place}, {manifest.words}: {_told(error)}")
        if dry_run:
            return _outcome(manifest, "passed")
        if manifest.is_crd:
            self._made_kinds.add(_kind_of(manifest))
        return _outcome(manifest, "created" if created else "applied")

    async def _kind(self, manifest: Manifest) -> ApiResource:
        """What kind it is; one that the text itself brings is waited for."""
        discovery = self._kit.discovery
        group = manifest.api_version.partition("/")[0]
        until = self._kit.clock.seconds() + min(NEW_KIND_PATIENCE, self._run.left)
        while True:
            try:
                return await discovery.kind(manifest.api_version, manifest.kind)
            except NotServed:
                if (group, manifest.kind) not in self._made_kinds or self._kit.clock.seconds() >= until:
                    raise
            self._run.say("waiting until the server serves its kind", about=manifest.words)
            await sleep(self._kit.clock, _LOOK)
            await discovery.refresh()

    def _namespace(self, manifest: Manifest) -> str:
        return manifest.namespace or self._target.namespace

    async def _request(self, manifest: Manifest, served: ApiResource, *, dry_run: bool) -> bool:
        """Send it; return whether it is new."""
        resource = served.resource
        given = manifest.namespace
        if resource.namespaced:
            if given and self._target.namespace and given != self._target.namespace:
                raise BadRequest(f"its namespace is {given}, the command's {self._target.namespace}")
            given = self._namespace(manifest)
            if not given:
                raise BadRequest("it names no namespace, nor does the command")
        namespace = namespace_of(resource, given)
        verbs = ("create",) if self._creating else APPLYING
        self._kit.reach.check(self._caller, verbs, resource, namespace, name=manifest.name)
        query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")]
        if dry_run:
            query.append(("dryRun", "All"))
        if self._force:
            query.append(("force", "true"))
        if not self._creating and not manifest.name:
            raise BadRequest("metadata.name: missing; generateName is for create")
        name = None if self._creating else manifest.name
        call = Call(
            method="POST" if self._creating else "PATCH",
            verb="create" if self._creating else "patch",
            resource=resource.name,
            path=resource.path(namespace=namespace, name=name),
            query=tuple(query),
            body=msgspec.json.encode(_content(manifest, namespace)),
            content_type=JSON if self._creating else APPLY_PATCH,
        )
        return (await self._kit.acting(self._caller).call(call)).status == 201


def _content(manifest: Manifest, namespace: str | None) -> Object:
    """The object, with its namespace; without what a server-side apply must not hold."""
    meta: dict[str, Any] = {**manifest.content["metadata"]}
    meta.pop("managedFields", None)
    if namespace:
        meta["namespace"] = namespace
    return {**manifest.content, "metadata": meta}


def _kind_of(crd: Manifest) -> tuple[str, str]:
    """Group and kind that a CRD defines."""
    spec: Any = crd.content.get("spec")
    names: Any = spec.get("names") if isinstance(spec, dict) else None
    kind = names.get("kind") if isinstance(names, dict) else None
    return (str(spec.get("group")), str(kind)) if isinstance(spec, dict) else ("", "")


def _told(error: Exception) -> str:
    said = str(error)
    if isinstance(error, StatusError) and error.conflict and "conflict" in error.message.lower():
        said += "; apply with force takes those fields over"
    return said


def _outcome(manifest: Manifest, action: Any, error: str = "") -> Outcome:
    return Outcome(
        document=manifest.document,
        line=manifest.line,
        object=manifest.words,
        action=action,
        error=error,
    )

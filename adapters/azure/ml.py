"""Training and evaluation as command jobs of Azure ML, in the cloud or on a site's own Kubernetes compute."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from adapters.azure import staging
from adapters.azure.workspace import Workspace, asking
from edge import candidate, signing
from edge.errors import Refused as BadCandidate
from triggers import codec
from triggers.compute import instance_type
from triggers.config import Site
from triggers.errors import NotFound, Refused
from triggers.ports import Blobs, Clock, Configs, Job, JobStatus, Signatures

RUNNING = frozenset(
    {
        *("NotStarted", "Starting", "Provisioning", "Preparing", "Queued", "Running", "Finalizing", "CancelRequested"),
        *("NotResponding", "Paused", "Unknown", "Scheduled"),
    }
)

_SAFE = re.compile(r"[A-Za-z0-9-]")
_LONGEST = 255
"""Characters of a job's name."""


def quoted(name: str) -> str:
    """A name as one that Azure ML takes; `unquoted` gives it back.

    >>> quoted("flights.2026-11-22.7-train"), quoted("../r")
    ('flights_2e2026-11-22_2e7-train', '0__2e_2e_2fr')
    """
    made = _escaped(name)
    if len(made) > _LONGEST:
        raise Refused(f"{name[:80]!r} is too long for the name of a job")
    return made


def _escaped(name: str) -> str:
    made = "".join(c if _SAFE.match(c) else "".join(f"_{b:02x}" for b in c.encode()) for c in name)
    return made if made[:1].isalnum() else f"0_{made}"


def unquoted(name: str) -> str:
    """
    >>> unquoted("flights_2e2026-11-22_2e7-train"), unquoted("0__2e_2e_2fr"), unquoted("not_ours")
    ('flights.2026-11-22.7-train', '../r', '')
    """
    name = name[2:] if name.startswith(("0__", "0_-")) else name
    if re.search(r"_(?![0-9a-f]{2})", name):
        return ""
    data = re.sub(rb"_([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), name.encode())
    return data.decode(errors="replace")


class AzureMlJobs:
    """Port Jobs. A job's name is its name in the workspace too, so that submitted twice it runs once.

    What a job reads and writes lies in the app's own blob container, which the workspace knows as a datastore: its spec
    at `jobs/<name>/spec.json`, what it made below `jobs/<name>/made/`. A candidate enters the registry here, once it is
    whole: with the image it was trained in, signed, and registered as a model of the workspace.
    """

    def __init__(
        self,
        workspace: Workspace,
        blobs: Blobs,
        config: Blobs,
        configs: Configs,
        signatures: Signatures,
        clock: Clock,
        *,
        registry_key: Callable[[], bytes],
        storage: Callable[[], str],
        datastore: Callable[[], str],
        compute: Callable[[], str],
        module: str = "jobs",
    ) -> None:
        """`config` holds <loop>/<file>; `registry_key` gives the private key (PEM) that signs candidates; `storage` is
        the address of the container of `blobs`, `datastore` its name in the workspace, `compute` the cluster in the
        cloud. `module` is what a job runs."""
        self._workspace = workspace
        self._blobs = blobs
        self._config = config
        self._configs = configs
        self._signatures = signatures
        self._clock = clock
        self._registry_key = registry_key
        self._storage = storage
        self._datastore = datastore
        self._compute = compute
        self._module = module

    # The port.

    def submit(self, job: Job) -> None:
        """Raises Refused where the job cannot be, Retry where the workspace cannot be asked now."""
        with asking(f"job {job.name} cannot be submitted"):
            if self._found(job.name) is None:
                self._submit(job)

    def status(self, name: str) -> JobStatus:
        """A job that has succeeded is one whose result is whole; its candidate is then in the registry."""
        if len(_escaped(name)) > _LONGEST:
            return JobStatus("unknown")
        with asking(f"job {name} cannot be looked at"):
            if self._blobs.exists(_at(name, "ended.json")):
                return msgspec.json.decode(self._blobs.get(_at(name, "ended.json")), type=JobStatus)
            found = self._found(name)
            if found is None:
                return JobStatus("unknown")
            if _state(found) in RUNNING:
                return JobStatus("running", log=found.studio_url or "")
            ended = self._ended(name, found)
            self._blobs.put(_at(name, "ended.json"), msgspec.json.encode(ended))
            return ended

    def cancel(self, name: str) -> None:
        """What has ended, or was never submitted, stays what it is."""
        from azure.core.exceptions import HttpResponseError

        if len(_escaped(name)) > _LONGEST:
            return
        with asking(f"job {name} cannot be cancelled"):
            found = self._found(name)
            if found is None or found.status not in RUNNING:
                return
            self._blobs.put(_at(name, "cancelled"), b"")
            try:
                self._workspace.client.jobs.begin_cancel(quoted(name)).wait()
            except HttpResponseError:
                found = self._found(name)
                if found is None or _state(found) in RUNNING:
                    raise

    def newest(self, asset: str) -> str:
        return self._workspace.newest(asset)

    def author(self, model: str) -> str:
        return self._workspace.author(model)

    # Submitting.

    def _found(self, name: str) -> Any:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self._workspace.client.jobs.get(quoted(name))
        except ResourceNotFoundError:
            return None

    def _submit(self, job: Job) -> None:
        from azure.ai.ml import Output, command
        from azure.core.exceptions import AzureError

        loop = self._configs.loop(job.loop)
        files = staging.Files(self._config, job.loop)
        inputs, arguments = self._reads(job)
        environment = staging.environment(job.loop, loop.training.environment, files, self._blobs, self._storage())
        compute, instance = self._place(job)
        with staging.program(files, signing.public(self._registry_key()).encode()) as code:
            version = staging.digest_of(code)
            asked = command(
                name=quoted(job.name),
                display_name=job.name,
                experiment_name=f"driftloop-{job.loop}",
                code=str(code),
                command=" ".join(["python -m", self._module, "${{inputs.spec}} --out ${{outputs.made}}", *arguments]),
                inputs=inputs,
                outputs={"made": Output(type="uri_folder", path=self._uri(_at(job.name, "made/")))},
                environment=environment,
                compute=compute,
                instance_type=instance,
                environment_variables={"OMP_NUM_THREADS": "1"},
                tags={
                    "driftloop.loop": job.loop,
                    "driftloop.run": job.run,
                    "driftloop.kind": job.kind,
                    "driftloop.site": job.site,
                    "driftloop.code": version,
                },
            )
            asked.set_limits(timeout=math.ceil(job.timeout_s))
            try:
                self._workspace.client.jobs.create_or_update(asked)
            except AzureError:
                if self._found(job.name) is None:  # it was there before, or the answer was lost
                    raise

    def _reads(self, job: Job) -> tuple[dict[str, Any], list[str]]:
        """The job's inputs, and the arguments that say where they are."""
        from azure.ai.ml import Input

        spec, inputs, arguments = self._spec(job), {}, []

        def folder(name: str, path: str, argument: str) -> None:
            inputs[name] = Input(type="uri_folder", path=path, mode="ro_mount")
            arguments.append(argument)

        inputs["spec"] = Input(type="uri_file", path=self._uri(_at(job.name, "spec.json")))
        if "data" not in spec:
            batches = self._uri(f"batches/{job.loop}/")
            folder("batches", batches, f"--mount batches/{job.loop}=${{{{inputs.batches}}}}")
            folder("window", spec["asset"], "--window ${{inputs.window}}/bundles.txt")
        for name in ("data", "model"):
            if str(spec.get(name) or "").startswith("azureml:"):
                inputs[name] = Input(type=self._type(name, spec[name]), path=spec[name], mode="ro_mount")
                arguments.append(f"--{name} ${{{{inputs.{name}}}}}")
        if job.kind == "evaluate":
            frozen = any(True for _ in self._blobs.names("holdouts/"))
            for name in ("candidates", "layers", *(("holdouts",) if frozen else ())):
                folder(name, self._uri(f"{name}/"), f"--mount {name}=${{{{inputs.{name}}}}}")
        return inputs, arguments

    def _spec(self, job: Job) -> dict[str, Any]:
        """Written once: what a job was told first stays so."""
        path = _at(job.name, "spec.json")
        if not self._blobs.exists(path):
            spec = {
                **job.spec,
                "name": job.name,
                "kind": job.kind,
                "run": job.run,
                "site": job.site,
                "loop": "config/loop.yaml",
                "public": "config/registry.pub",
                "blobs": "",
                "timeout_s": job.timeout_s,
            }
            if "data" not in spec:
                spec["asset"] = self._window(job)
            self._blobs.put(path, msgspec.json.encode(spec))
        found: dict[str, Any] = msgspec.json.decode(self._blobs.get(path))
        return found

    def _window(self, job: Job) -> str:
        """The data asset that lists the bundles of a window as they are now: rows that come later are not in it."""
        from azure.ai.ml.entities import Data

        spec, prefix = job.spec, f"batches/{job.loop}/"
        sites = self._configs.fleet(job.loop).sites if spec["sites"] is None else ()
        wanted = spec["sites"] if spec["sites"] is not None else [s.name for s in sites]
        first = str(datetime.fromisoformat(spec["from"]).date())
        names = [
            name
            for site in wanted
            for name in self._blobs.names(f"{prefix}{site}/")
            if name.removeprefix(f"{prefix}{site}/")[:10] >= first
        ]
        listed = "\n".join(sorted(name.removeprefix(prefix) for name in names)).encode()
        version = codec.digest(listed)[:32]
        place = f"windows/{job.loop}/{version}/"
        self._blobs.put(f"{place}bundles.txt", listed)
        tags = {"from": spec["from"], "to": spec["to"], "bundles": str(len(names)), "sites": str(len(wanted))}
        asset = Data(name=f"{job.loop}-window", version=version, path=self._uri(place), type="uri_folder", tags=tags)
        self._workspace.client.data.create_or_update(asset)
        return f"azureml:{job.loop}-window:{version}"

    def _type(self, kind: str, asset: str) -> str:
        """Whether an asset is a file, a folder or a kind of model."""
        _, name, version = asset.split(":")
        client = self._workspace.client
        return str((client.data if kind == "data" else client.models).get(name, version).type)

    def _place(self, job: Job) -> tuple[str, str | None]:
        """The compute, and the instance type on it."""
        site = self._configs.fleet(job.loop).site(job.site) if job.site else None
        if site is None:
            return self._compute(), None
        if not site.compute:
            raise Refused(f"site {site.name} is to train, and fleet.yaml names no compute of it", site=site.name)
        chosen = instance_type(site, self._configs.loop(job.loop).training.needs)
        return site.compute, chosen.name if chosen else None

    def _uri(self, path: str) -> str:
        return f"azureml://datastores/{self._datastore()}/paths/{path}"

    # What came of it.

    def _ended(self, name: str, found: Any) -> JobStatus:
        log = found.studio_url or ""
        if _state(found) == "Canceled":
            if self._blobs.exists(_at(name, "cancelled")):
                return JobStatus("cancelled", reason="cancelled", log=log)
            spec = msgspec.json.decode(self._blobs.get(_at(name, "spec.json")))
            return JobStatus(
                "failed", reason=f"timed out after {spec['timeout_s']:g} s, or cancelled in the workspace", log=log
            )
        try:
            data = self._blobs.get(_at(name, "made/result.json"))
        except NotFound:
            return JobStatus("failed", reason=f"ended without a result ({_state(found)})", log=log)
        try:
            result = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.ValidationError:
            return JobStatus("failed", reason="result.json is not an object", log=log)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return JobStatus("failed", reason=f"result.json cannot be read: {error}", log=log)
        if "error" in result or _state(found) != "Completed":
            return JobStatus("failed", result, str(result.get("error") or _state(found)), log)
        try:
            return JobStatus("succeeded", self._accepted(name, data, result, found), log=log)
        except (Refused, BadCandidate) as problem:
            return JobStatus("failed", reason=str(problem), log=log)

    def _accepted(self, name: str, data: bytes, result: dict[str, Any], found: Any) -> dict[str, Any]:
        """The result, once it is proven to be the site's, and its candidate is in the registry."""
        spec = msgspec.json.decode(self._blobs.get(_at(name, "spec.json")))
        if spec["site"]:
            site = self._configs.fleet(found.tags["driftloop.loop"]).site(spec["site"])
            if site is not None and site.keys:
                self._signed(name, data, site)
        if spec["kind"] != "train" or "candidate" not in result:
            return result
        image = self._image(found)
        digest, manifest = self._published(name, str(result["candidate"]), image)
        self._register(digest, manifest, spec, found, image)
        return {**result, "candidate": digest, "image": image}

    def _signed(self, name: str, data: bytes, site: Site) -> None:
        """Raises Refused where these bytes are not signed by a key of the site that is valid now."""
        what = f"the evidence of {name}"
        try:
            said = msgspec.json.decode(self._blobs.get(_at(name, "made/result.sig")), type=dict[str, str])
            signature = base64.b64decode(said["signature"], validate=True)
        except (NotFound, KeyError, ValueError, msgspec.MsgspecError) as error:
            raise Refused(f"{what} is not signed by {site.name}", site=site.name) from error
        now = self._clock.now()
        key = next((k for k in site.keys if k.id == said.get("key")), None)
        if key is None or key.revoked:
            raise Refused(f"{what} is signed with a key that {site.name} has not", site=site.name)
        if (key.not_before and now < key.not_before) or (key.not_after and now > key.not_after):
            raise Refused(f"{what} is signed with key {key.id!r}, which is not valid now", site=site.name)
        if not self._signatures.verify(key.public, signature, data):
            raise Refused(f"{what} is not what key {key.id!r} of {site.name} signed", site=site.name)

    def _image(self, found: Any) -> str:
        """The digest of the image that the job ran in, where the workspace built it."""
        environment = str(found.environment)
        if environment.startswith("azureml:/subscriptions"):
            environment = environment.removeprefix("azureml:")
        elif not environment.startswith("/subscriptions"):
            named = environment.removeprefix("azureml:").split(":")
            if len(named) != 2:
                return ""
            environment = f"{self._workspace.id}/environments/{named[0]}/versions/{named[1]}"
        return self._workspace.image(environment)

    def _published(self, name: str, made: str, image: str) -> tuple[str, candidate.Manifest]:
        """The candidate in the registry, every byte checked, the image in its lineage, signed; its digest."""
        place = _at(name, "made/")
        written = self._blobs.get(f"{place}candidates/{made}/{candidate.MANIFEST}")
        if candidate.digest(written) != made:
            raise Refused(f"the manifest that {name} wrote is not the one its result names")
        manifest = candidate.read(written)
        if image:
            text = f"{manifest.lineage.environment}, image {image}".lstrip(", ")
            manifest = msgspec.structs.replace(
                manifest, lineage=msgspec.structs.replace(manifest.lineage, environment=text)
            )
        data = msgspec.json.encode(manifest, order="sorted")
        digest, signature = candidate.digest(data), candidate.sign(data, self._registry_key())
        files = {}
        for file, about in manifest.files.items():
            files[file] = self._blobs.get(f"{place}layers/{about.sha256}")
            if candidate.sha256(files[file]) != about.sha256:
                raise Refused(f"{file} of {name} is not what its manifest names")
            self._blobs.put(f"layers/{about.sha256}", files[file])
        if record := manifest.lineage.provenance:
            listed = self._blobs.get(f"{place}provenance/{record}")
            if candidate.sha256(listed) != record:
                raise Refused(f"the record of {name}'s batches is not what its manifest names")
            self._blobs.put(f"provenance/{record}", listed)
        if (frozen := manifest.lineage.holdout) and not self._blobs.exists(f"holdouts/{frozen.sha256}"):
            rows = self._blobs.get(f"{place}holdouts/{frozen.sha256}")
            if candidate.sha256(rows) != frozen.sha256:
                raise Refused(f"the rows that {name} froze are not what its manifest names")
            self._blobs.put(f"holdouts/{frozen.sha256}", rows)
        whole = {**files, candidate.SIGNATURE: signature.encode(), candidate.MANIFEST: data}
        for file, content in whole.items():
            self._blobs.put(f"models/{manifest.loop}/{digest}/{file}", content)
        self._blobs.put(f"candidates/{digest}/{candidate.SIGNATURE}", signature.encode())
        self._blobs.put(f"candidates/{digest}/{candidate.MANIFEST}", data)
        return digest, manifest

    def _register(
        self, digest: str, manifest: candidate.Manifest, spec: Mapping[str, Any], found: Any, image: str
    ) -> None:
        """The candidate as a model of the workspace, under the loop's name; its version is its digest."""
        from azure.ai.ml.entities import Model
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        lineage = manifest.lineage
        model = Model(
            name=manifest.loop,
            version=digest,
            path=self._uri(f"models/{manifest.loop}/{digest}/"),
            type="custom_model",
            tags={
                "driftloop": digest,
                "run": lineage.run,
                "parent": lineage.parent or "",
                "from": lineage.start,
                "to": lineage.end,
                "rows": str(lineage.rows),
                "reference": manifest.files[candidate.REFERENCE].sha256,
                "code": found.tags.get("driftloop.code", ""),
                "data": str(spec.get("asset") or spec.get("data") or ""),
                "environment": str(found.environment),
                "image": image,
            },
            properties={
                "driftloop.digest": digest,
                "driftloop.signature": self._blobs.get(f"candidates/{digest}/{candidate.SIGNATURE}").decode(),
            },
        )
        try:
            self._workspace.client.models.create_or_update(model)
        except AzureError as error:
            try:  # it was there before, or the answer was lost
                self._workspace.client.models.get(manifest.loop, digest)
            except ResourceNotFoundError:
                raise error from None


def _state(found: Any) -> str:
    """As the service writes it."""
    return str(getattr(found.status, "value", found.status))


def _at(name: str, file: str) -> str:
    return f"jobs/{quoted(name)}/{file}"

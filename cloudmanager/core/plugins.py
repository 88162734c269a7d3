"""Loads the plugins, builds the configured providers, and calls exactly one of them."""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

import pluggy
from pydantic import BaseModel, ValidationError

from cloudmanager.core import hookspecs
from cloudmanager.core.errors import (
    CloudManagerError,
    ConfigurationError,
    InvalidRequest,
    PluginError,
    ProviderFailure,
    ProviderNotFound,
)
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.model import (
    Access,
    Attachment,
    AttachPlan,
    Device,
    Disk,
    DiskId,
    Finding,
    Node,
    NotAttached,
    Page,
    Query,
    Snapshot,
    is_provider_name,
)
from cloudmanager.core.settings import explain, near_miss

ENTRY_POINT_GROUP = "cloudmanager.plugins"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedPlugin:
    """A plugin and where it came from."""

    name: str
    distribution: str
    version: str
    provider_types: tuple[str, ...]
    hooks: tuple[str, ...]


class Provider:
    """One configured provider: its hooks as methods.

    Wrappers of other plugins run around each call. An error that the provider did not translate arrives as
    ProviderFailure.
    """

    def __init__(self, name: str, type_name: str, caller: "HookCaller") -> None:
        self.name = name
        self.type = type_name
        self._call = caller

    def keep_in(self, directory: Path) -> None:
        if self._call.has("keep_in"):
            self._call("keep_in", directory=directory)

    def node(self) -> Node:
        return cast(Node, self._call("node"))

    def describe(self, disk_id: DiskId) -> Disk:
        return cast(Disk, self._call("describe", disk_id=disk_id))

    def find(self, query: Query, page_token: str | None = None) -> Page[Disk]:
        return cast(Page[Disk], self._call("find", query=query, page_token=page_token))

    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        return cast(AttachPlan, self._call("plan_attach", disk=disk, access=access))

    def attach(self, plan: AttachPlan, keep: Callable[[str], None] = lambda _: None) -> Attachment:
        return cast(Attachment, self._call("attach", plan=plan, keep=keep))

    def locate(self, disk: Disk) -> Device | NotAttached:
        return cast("Device | NotAttached", self._call("locate", disk=disk))

    @property
    def can_locate_all(self) -> bool:
        """It has the optional `locate_all`."""
        return self._call.has("locate_all")

    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device | NotAttached]:
        """Those of which something is certain: none where the provider has no such hook."""
        if not self.can_locate_all:
            return {}
        return cast("Mapping[DiskId, Device | NotAttached]", self._call("locate_all", disks=disks))

    def detach(self, attachment: Attachment) -> None:
        self._call("detach", attachment=attachment)

    @property
    def capabilities(self) -> frozenset[str]:
        """Which of `snapshot`, `restore` and `delete` it offers."""
        return frozenset(name for name in hookspecs.CAPABILITY_HOOKS if self._call.has(name))

    def snapshot(self, disk: Disk, name: str) -> Snapshot:
        return cast(Snapshot, self._call("snapshot", disk=disk, name=name))

    def restore(self, snapshot: Snapshot, name: str) -> Disk:
        return cast(Disk, self._call("restore", snapshot=snapshot, name=name))

    def delete(self, item: Disk | Snapshot) -> None:
        self._call("delete", item=item)

    def diagnose(self) -> list[Finding]:
        return list(cast("Iterable[Finding] | None", self._call("diagnose")) or [])


class HookCaller:
    """Calls a hook on one provider and on no other."""

    def __init__(self, manager: pluggy.PluginManager, provider: str, others: Iterable[object]) -> None:
        self._provider = provider
        self._hooks = {
            name: manager.subset_hook_caller(name, others) for name in hookspecs.hook_names(hookspecs.ProviderSpec)
        }

    def has(self, hook: str) -> bool:
        """The provider implements it."""
        return any(not found.wrapper and not found.hookwrapper for found in self._hooks[hook].get_hookimpls())

    def __call__(self, hook: str, **arguments: object) -> object:
        if hook in hookspecs.CAPABILITY_HOOKS and not self.has(hook):
            raise InvalidRequest(f"Provider {self._provider} does not offer {hook}.")
        try:
            answer = self._hooks[hook](provider=self._provider, **arguments)
        except CloudManagerError:
            raise
        except Exception as error:
            raise_exhausted(error)
            log.exception("provider %s failed in %s", self._provider, hook)
            raise ProviderFailure(
                f"Provider {self._provider} failed in {hook} with {type(error).__name__}; its log has the details."
            ) from error
        if answer is None and hook not in ("detach", "diagnose", "delete", "keep_in"):
            raise ProviderFailure(f"Provider {self._provider} gave no answer to {hook}.")
        return answer


class Plugins:
    """Every plugin, and the providers that the configuration builds from them."""

    def __init__(self, sources: Iterable[EntryPoint | tuple[str, object]] | None = None) -> None:
        """`sources` are entry points or (name, plugin) pairs; by default, whatever is installed."""
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs.PluginSpec)
        self._manager.add_hookspecs(hookspecs.ProviderSpec)
        self._types: dict[str, type[Any]] = {}
        self._loaded: list[LoadedPlugin] = []
        self._providers: dict[str, Provider] = {}
        for source in entry_points(group=ENTRY_POINT_GROUP) if sources is None else sources:
            self._load(source)

    @property
    def loaded(self) -> list[LoadedPlugin]:
        return list(self._loaded)

    @property
    def provider_types(self) -> Mapping[str, type[Any]]:
        return dict(self._types)

    def configure(self, providers: Mapping[str, Mapping[str, Any]]) -> None:
        """Builds one provider from each `[providers.NAME]` table. Raises ConfigurationError, PluginError."""
        instances = {name: self._build(name, table) for name, table in providers.items()}
        for name, instance in instances.items():
            self._register(instance, f"provider:{name}", f"provider {name}")
        for name, instance in instances.items():
            others = [other for other in instances.values() if other is not instance]
            caller = HookCaller(self._manager, name, others)
            self._providers[name] = Provider(name, type(instance).type, caller)

    @property
    def have_policies(self) -> bool:
        """Whether any plugin wants to be asked."""
        return bool(self._manager.hook.authorize.get_hookimpls())

    def authorize(self, request: hookspecs.ExportRequest) -> None:
        """Asks every plugin. Raises what the first objector raises; a broken policy refuses too."""
        try:
            self._manager.hook.authorize(provider=request.disk.id.provider, request=request)
        except CloudManagerError:
            raise
        except Exception as error:
            log.exception("a policy plugin failed")
            raise ProviderFailure(
                "A policy plugin failed, so the export is refused; the log has the details."
            ) from error

    def __getitem__(self, name: str) -> Provider:
        try:
            return self._providers[name]
        except KeyError:
            raise ProviderNotFound(
                f"No provider {name!a} is configured{near_miss(name, self._providers)}. "
                f"Configured: {', '.join(sorted(self._providers)) or 'none'}."
            ) from None

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._providers.values())

    def _load(self, source: EntryPoint | tuple[str, object]) -> None:
        if isinstance(source, EntryPoint):
            name, plugin = source.name, _import(source)
            distribution = source.dist.name if source.dist else "?"
            version = source.dist.version if source.dist else "?"
        else:
            (name, plugin), distribution, version = source, "?", "?"
        self._register(plugin, f"plugin:{name}", f"plugin {name} of {distribution}")
        types = self._types_of(plugin, name)
        for provider_type in types:
            self._add_type(provider_type, name)
        self._refuse_answers(plugin, name)
        hooks = [caller.name for caller in self._manager.get_hookcallers(plugin) or []]
        self._loaded.append(
            LoadedPlugin(name, distribution, version, tuple(t.type for t in types), tuple(sorted(hooks)))
        )

    def _register(self, plugin: object, key: str, shown: str) -> None:
        try:
            self._manager.register(plugin, key)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{shown} cannot be registered: {error}") from error
        self._refuse_unknown_hooks(shown)

    def _refuse_unknown_hooks(self, shown: str) -> None:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            known = hookspecs.hook_names(hookspecs.PluginSpec) + hookspecs.hook_names(hookspecs.ProviderSpec)
            raise PluginError(
                f"{shown} implements a hook that does not exist ({error}). Hooks: {', '.join(known)}."
            ) from error

    def _refuse_answers(self, plugin: object, name: str) -> None:
        """A plugin that is no provider would answer in the place of one."""
        for hook in hookspecs.hook_names(hookspecs.ProviderSpec):
            options = getattr(getattr(plugin, hook, None), f"{hookspecs.PROJECT}_impl", None)
            if options and not (options["wrapper"] or options["hookwrapper"]):
                raise PluginError(
                    f"plugin {name} implements {hook} though it is no provider: wrap it with @hookimpl(wrapper=True)."
                )

    def _types_of(self, plugin: object, name: str) -> list[type[Any]]:
        implementation = getattr(plugin, "register_providers", None)
        if implementation is None:
            return []
        try:
            return list(implementation())
        except CloudManagerError:
            raise
        except Exception as error:
            raise PluginError(f"plugin {name} failed in register_providers: {error!r}") from error

    def _add_type(self, provider_type: type[Any], plugin: str) -> None:
        type_name = getattr(provider_type, "type", None)
        settings = getattr(provider_type, "Settings", None)
        if not isinstance(type_name, str) or not (inspect.isclass(settings) and issubclass(settings, BaseModel)):
            raise PluginError(
                f"plugin {plugin} offers {provider_type!r}, which lacks a `type` name or a `Settings` model (pydantic)."
            )
        missing = [hook for hook in hookspecs.MANDATORY_HOOKS if not _is_hookimpl(provider_type, hook)]
        if missing:
            raise PluginError(
                f"plugin {plugin}: provider type {type_name} does not implement {', '.join(missing)} (with @hookimpl)."
            )
        if type_name in self._types:
            raise PluginError(f"plugin {plugin} offers provider type {type_name}, which another plugin offers already.")
        self._types[type_name] = provider_type

    def _build(self, name: str, table: Mapping[str, Any]) -> Any:
        where = f"[providers.{name}]"
        if not is_provider_name(name):
            raise ConfigurationError(f"{where}: a provider's name has lower-case letters, digits, _ and - only.")
        type_name = table.get("type")
        if not isinstance(type_name, str):
            raise ConfigurationError(f'{where} needs a type, for example type = "local".')
        if type_name not in self._types:
            raise ConfigurationError(
                f"{where}: there is no provider type {type_name!r}{near_miss(type_name, self._types)}. "
                f"Types: {', '.join(sorted(self._types))}."
            )
        provider_type = self._types[type_name]
        fields = {key: value for key, value in table.items() if key != "type"}
        known = provider_type.Settings.model_fields
        for key in fields:
            if key not in known:
                raise ConfigurationError(f"{where}: there is no setting {key!r}{near_miss(key, known)}.")
        try:
            settings = provider_type.Settings.model_validate(fields)
        except ValidationError as error:
            raise ConfigurationError("\n".join(explain(error, f"providers.{name}"))) from error
        try:
            return provider_type(name, settings)
        except CloudManagerError:
            raise
        except Exception as error:
            raise PluginError(f"{where}: provider type {type_name} cannot be built: {error!r}") from error


def _is_hookimpl(provider_type: type[Any], hook: str) -> bool:
    return hasattr(getattr(provider_type, hook, None), f"{hookspecs.PROJECT}_impl")


def _import(source: EntryPoint) -> object:
    try:
        return source.load()
    except CloudManagerError:
        raise
    except Exception as error:
        distribution = source.dist.name if source.dist else "?"
        raise PluginError(f"plugin {source.name} of {distribution} cannot be imported: {error!r}") from error

"""The settings of a [providers.NAME] table with type = "gce"."""

from pydantic import Field

from cloudmanager.providers._settings import CloudSettings


class GceSettings(CloudSettings):
    """Disks of one project. Credentials are Google's Application Default Credentials; none are set here."""

    project: str = Field("", description="Project of the disks and of this instance. Default: the metadata server's.")
    zone: str = Field("", description="Zone of this instance. Default: the metadata server's.")
    instance: str = Field("", description="Name of this instance. Default: the metadata server's.")
    endpoint: str = Field(
        "", description="Address of the Compute Engine API, for a private endpoint or an emulator. Default: Google's."
    )
    universe_domain: str = Field(
        "",
        pattern=r"^([a-z0-9-]+(\.[a-z0-9-]+)+)?$",
        description="Domain of a sovereign Google Cloud, such as s3nsapis.fr. Default: GOOGLE_CLOUD_UNIVERSE_DOMAIN, "
        "or that of the credentials.",
    )
    metadata_host: str = Field(
        "", description="Host of the metadata server. Default: GCE_METADATA_HOST, or metadata.google.internal."
    )

"""Drives a volume's whole life through a CSI socket, with grpcio."""

import argparse
import pathlib
import sys
import uuid

import grpc

sys.path.append(str(pathlib.Path(__file__).resolve().parents[3] / "build/interop/python/stubs"))
import csi_pb2 as csi  # noqa: E402
import csi_pb2_grpc as services  # noqa: E402

DEADLINE = 30
DATA = b"written through the published path\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", required=True, help="unix:///path of the driver's socket")
    parser.add_argument("--identity-only", action="store_true", help="stop after GetPluginInfo")
    parser.add_argument("--work", type=pathlib.Path, help="directory for staging and target path")
    parser.add_argument("--size", type=int, default=64 << 20, help="bytes to ask for")
    parser.add_argument("--parameter", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


class Life:
    """A volume's life; what has been done is undone, last first, when it ends early."""

    def __init__(self, channel, options):
        self.identity = services.IdentityStub(channel)
        self.controller = services.ControllerStub(channel)
        self.node = services.NodeStub(channel)
        self.options = options
        self.undo = []

    def call(self, method, request, name):
        answer = method(request, timeout=DEADLINE)
        print(f"{name}: ok", flush=True)
        return answer

    def introduction(self):
        info = self.call(self.identity.GetPluginInfo, csi.GetPluginInfoRequest(), "GetPluginInfo")
        check(info.name, "the driver has no name")

    def whole(self):
        self.introduction()
        probe = self.call(self.identity.Probe, csi.ProbeRequest(), "Probe")
        check(not probe.HasField("ready") or probe.ready.value, "the driver is not ready")
        volume = self.create()
        staging, target = self.options.work / "staging", self.options.work / "target"
        staging.mkdir()
        self.attach(volume, str(staging), str(target))
        (target / "file").write_bytes(DATA)
        check((target / "file").read_bytes() == DATA, "the file does not hold what was written")
        print("write and read: ok", flush=True)
        self.stats(volume, str(staging), str(target))
        while self.undo:
            method, request, name = self.undo.pop()
            self.call(method, request, name)
        check(not target.exists(), "NodeUnpublishVolume has left the target path")

    def capability(self):
        mode = csi.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
        return csi.VolumeCapability(
            mount=csi.VolumeCapability.MountVolume(),
            access_mode=csi.VolumeCapability.AccessMode(mode=mode),
        )

    def create(self):
        request = csi.CreateVolumeRequest(
            name=f"interop-{uuid.uuid4()}",
            capacity_range=csi.CapacityRange(required_bytes=self.options.size),
            volume_capabilities=[self.capability()],
            parameters=dict(p.split("=", 1) for p in self.options.parameter),
        )
        volume = self.call(self.controller.CreateVolume, request, "CreateVolume").volume
        delete = csi.DeleteVolumeRequest(volume_id=volume.volume_id)
        self.undo.append((self.controller.DeleteVolume, delete, "DeleteVolume"))
        check(volume.capacity_bytes >= self.options.size, "the volume is smaller than asked for")
        return volume

    def attach(self, volume, staging, target):
        stage = csi.NodeStageVolumeRequest(
            volume_id=volume.volume_id,
            staging_target_path=staging,
            volume_capability=self.capability(),
            volume_context=volume.volume_context,
        )
        unstage = csi.NodeUnstageVolumeRequest(volume_id=volume.volume_id, staging_target_path=staging)
        self.undo.append((self.node.NodeUnstageVolume, unstage, "NodeUnstageVolume"))
        self.call(self.node.NodeStageVolume, stage, "NodeStageVolume")
        publish = csi.NodePublishVolumeRequest(
            volume_id=volume.volume_id,
            staging_target_path=staging,
            target_path=target,
            volume_capability=self.capability(),
            volume_context=volume.volume_context,
        )
        unpublish = csi.NodeUnpublishVolumeRequest(volume_id=volume.volume_id, target_path=target)
        self.undo.append((self.node.NodeUnpublishVolume, unpublish, "NodeUnpublishVolume"))
        self.call(self.node.NodePublishVolume, publish, "NodePublishVolume")

    def stats(self, volume, staging, target):
        request = csi.NodeGetVolumeStatsRequest(
            volume_id=volume.volume_id, volume_path=target, staging_target_path=staging
        )
        stats = self.call(self.node.NodeGetVolumeStats, request, "NodeGetVolumeStats")
        totals = [usage.total for usage in stats.usage if usage.unit == csi.VolumeUsage.BYTES]
        check(len(totals) == 1 and totals[0] > 0, f"no usage in bytes: {stats}")

    def clean_up(self):
        for method, request, name in reversed(self.undo):
            try:
                method(request, timeout=DEADLINE)
            except grpc.RpcError as error:
                print(f"{name}: {error.code().name}: {error.details()}", file=sys.stderr)


def check(holds, complaint):
    if not holds:
        raise ValueError(complaint)


def main():
    options = arguments()
    with grpc.insecure_channel(options.endpoint) as channel:
        life = Life(channel, options)
        try:
            if options.identity_only:
                life.introduction()
            else:
                life.whole()
        except grpc.RpcError as error:
            print(f"failed: {error.code().name}: {error.details()}", file=sys.stderr)
            life.clean_up()
            return 1
        except (ValueError, OSError) as error:
            print(f"failed: {error}", file=sys.stderr)
            life.clean_up()
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

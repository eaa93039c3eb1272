// Command client drives a volume's whole life through a CSI socket, with grpc-go.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	deadline = 30 * time.Second
	data     = "written through the published path\n"
)

type parameters map[string]string

func (p parameters) String() string { return fmt.Sprint(map[string]string(p)) }

func (p parameters) Set(text string) error {
	key, value, found := strings.Cut(text, "=")
	if !found {
		return errors.New("want KEY=VALUE")
	}
	p[key] = value
	return nil
}

type options struct {
	endpoint, dial, work string
	identityOnly         bool
	size                 int64
	parameters           parameters
}

func parse() options {
	o := options{parameters: parameters{}}
	flag.StringVar(&o.endpoint, "endpoint", "", "unix:///path of the driver's socket")
	flag.StringVar(&o.dial, "dial", "plain", "plain, or pluginmanager for what the kubelet's plugin manager does")
	flag.BoolVar(&o.identityOnly, "identity-only", false, "stop after GetPluginInfo")
	flag.StringVar(&o.work, "work", "", "directory for staging and target path")
	flag.Int64Var(&o.size, "size", 64<<20, "bytes to ask for")
	flag.Var(o.parameters, "parameter", "KEY=VALUE, repeatable")
	flag.Parse()
	return o
}

func main() {
	o := parse()
	connection, err := connect(o)
	if err == nil {
		defer connection.Close()
		l := newLife(connection, o)
		if o.identityOnly {
			err = l.introduction()
		} else {
			err = l.whole()
		}
		if err != nil {
			l.cleanUp()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

// connect dials as most clients do, or, like the kubelet's plugin manager, a bare path with a dialer
// of its own: the path then becomes the :authority, with %2F for each slash.
func connect(o options) (*grpc.ClientConn, error) {
	credentials := grpc.WithTransportCredentials(insecure.NewCredentials())
	switch o.dial {
	case "plain":
		return grpc.NewClient(o.endpoint, credentials)
	case "pluginmanager":
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		dialer := grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		})
		path := strings.TrimPrefix(o.endpoint, "unix://")
		//nolint:staticcheck // deprecated, and what the kubelet calls
		return grpc.DialContext(ctx, path, credentials, grpc.WithBlock(), dialer)
	}
	return nil, fmt.Errorf("unknown way to dial: %q", o.dial)
}

// life is a volume's life; what has been done is undone, last first, when it ends early.
type life struct {
	options
	identity   csi.IdentityClient
	controller csi.ControllerClient
	node       csi.NodeClient
	undo       []step
}

type step struct {
	name string
	run  func(context.Context) error
}

func newLife(connection *grpc.ClientConn, o options) *life {
	return &life{
		options:    o,
		identity:   csi.NewIdentityClient(connection),
		controller: csi.NewControllerClient(connection),
		node:       csi.NewNodeClient(connection),
	}
}

func (s step) do() error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	fmt.Println(s.name + ": ok")
	return nil
}

func (l *life) introduction() error {
	return step{"GetPluginInfo", func(ctx context.Context) error {
		info, err := l.identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
		if err == nil && info.GetName() == "" {
			err = errors.New("the driver has no name")
		}
		return err
	}}.do()
}

func (l *life) probe(ctx context.Context) error {
	answer, err := l.identity.Probe(ctx, &csi.ProbeRequest{})
	if err == nil && answer.GetReady() != nil && !answer.GetReady().GetValue() {
		err = errors.New("the driver is not ready")
	}
	return err
}

func (l *life) whole() error {
	volume := &csi.Volume{}
	staging, target := filepath.Join(l.work, "staging"), filepath.Join(l.work, "target")
	if err := os.Mkdir(staging, 0o750); err != nil {
		return err
	}
	if err := l.introduction(); err != nil {
		return err
	}
	steps := []step{
		{"Probe", l.probe},
		{"CreateVolume", func(ctx context.Context) error { return l.create(ctx, volume) }},
		{"NodeStageVolume", func(ctx context.Context) error { return l.stage(ctx, volume, staging) }},
		{"NodePublishVolume", func(ctx context.Context) error { return l.publish(ctx, volume, staging, target) }},
		{"write and read", func(context.Context) error { return writeAndRead(filepath.Join(target, "file")) }},
		{"NodeGetVolumeStats", func(ctx context.Context) error { return l.stats(ctx, volume, staging, target) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return err
		}
	}
	for len(l.undo) > 0 {
		last := l.undo[len(l.undo)-1]
		l.undo = l.undo[:len(l.undo)-1]
		if err := last.do(); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		return errors.New("NodeUnpublishVolume has left the target path")
	}
	return nil
}

func capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func (l *life) create(ctx context.Context, volume *csi.Volume) error {
	answer, err := l.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               "interop-" + strings.ToLower(rand.Text()),
		CapacityRange:      &csi.CapacityRange{RequiredBytes: l.size},
		VolumeCapabilities: []*csi.VolumeCapability{capability()},
		Parameters:         l.parameters,
	})
	if err != nil {
		return err
	}
	volume.VolumeId = answer.GetVolume().GetVolumeId()
	volume.VolumeContext = answer.GetVolume().GetVolumeContext()
	l.undo = append(l.undo, step{"DeleteVolume", func(ctx context.Context) error {
		_, err := l.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: volume.GetVolumeId()})
		return err
	}})
	if answer.GetVolume().GetCapacityBytes() < l.size {
		return errors.New("the volume is smaller than asked for")
	}
	return nil
}

func (l *life) stage(ctx context.Context, volume *csi.Volume, staging string) error {
	l.undo = append(l.undo, step{"NodeUnstageVolume", func(ctx context.Context) error {
		_, err := l.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{
			VolumeId:          volume.GetVolumeId(),
			StagingTargetPath: staging,
		})
		return err
	}})
	_, err := l.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId:          volume.GetVolumeId(),
		StagingTargetPath: staging,
		VolumeCapability:  capability(),
		VolumeContext:     volume.GetVolumeContext(),
	})
	return err
}

func (l *life) publish(ctx context.Context, volume *csi.Volume, staging, target string) error {
	l.undo = append(l.undo, step{"NodeUnpublishVolume", func(ctx context.Context) error {
		_, err := l.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{
			VolumeId:   volume.GetVolumeId(),
			TargetPath: target,
		})
		return err
	}})
	_, err := l.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId:          volume.GetVolumeId(),
		StagingTargetPath: staging,
		TargetPath:        target,
		VolumeCapability:  capability(),
		VolumeContext:     volume.GetVolumeContext(),
	})
	return err
}

func writeAndRead(path string) error {
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		return err
	}
	got, err := os.ReadFile(path)
	if err == nil && string(got) != data {
		err = errors.New("the file does not hold what was written")
	}
	return err
}

func (l *life) stats(ctx context.Context, volume *csi.Volume, staging, target string) error {
	answer, err := l.node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{
		VolumeId:          volume.GetVolumeId(),
		VolumePath:        target,
		StagingTargetPath: staging,
	})
	if err != nil {
		return err
	}
	for _, usage := range answer.GetUsage() {
		if usage.GetUnit() == csi.VolumeUsage_BYTES && usage.GetTotal() > 0 {
			return nil
		}
	}
	return fmt.Errorf("no usage in bytes: %v", answer)
}

func (l *life) cleanUp() {
	for i := len(l.undo) - 1; i >= 0; i-- {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		if err := l.undo[i].run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, l.undo[i].name+":", err)
		}
		cancel()
	}
}

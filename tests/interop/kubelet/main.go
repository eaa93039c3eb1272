// Command kubelet is the part of the kubelet that drivers register with: its own plugin watcher and reconciler, of the
// version in go.mod, and behind them what its CSI plugin does with a driver. It writes a line for each event.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager/cache"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager/operationexecutor"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager/pluginwatcher"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager/reconciler"
)

// As the kubelet's plugin manager has it.
const pause = time.Second

// As the kubelet's CSI plugin has it.
const limit = 2 * time.Minute

func main() {
	directory := flag.String("plugins-registry", "", "directory of the registration sockets")
	refuse := flag.String("refuse", "", "refuse every driver, with this reason")
	flag.Parse()
	if *directory == "" {
		fmt.Fprintln(os.Stderr, "--plugins-registry is needed")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx.Done(), *directory, &drivers{refuse: *refuse, known: map[string]string{}}); err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

// run joins the parts as the plugin manager does, which itself would bring most of the kubelet with it.
func run(stop <-chan struct{}, directory string, handler cache.PluginHandler) error {
	wished, actual := cache.NewDesiredStateOfWorld(), cache.NewActualStateOfWorld()
	generator := operationexecutor.NewOperationGenerator(record.NewFakeRecorder(0))
	loop := reconciler.NewReconciler(operationexecutor.NewOperationExecutor(generator), pause, wished, actual)
	loop.AddHandler("CSIPlugin", handler)
	if err := pluginwatcher.NewWatcher(directory, wished).Start(stop); err != nil {
		return err
	}
	fmt.Println("watching")
	loop.Run(stop)
	return nil
}

// drivers is what the CSI plugin knows: a driver's name and the path of its socket.
type drivers struct {
	refuse string
	mutex  sync.Mutex
	known  map[string]string
}

func (d *drivers) ValidatePlugin(name, endpoint string, versions []string) error {
	fmt.Println("validate", name, endpoint, strings.Join(versions, ","))
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if _, there := d.known[name]; there {
		return errors.New("another driver with the same name is already registered")
	}
	return nil
}

func (d *drivers) RegisterPlugin(name, endpoint string, _ []string, _ *time.Duration) error {
	if d.refuse != "" {
		return errors.New(d.refuse)
	}
	node, err := nodeInfo(endpoint)
	if err != nil {
		return err
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.known[name] = endpoint
	fmt.Println("register", name, node.GetNodeId(), node.GetAccessibleTopology().GetSegments())
	return nil
}

func (d *drivers) DeRegisterPlugin(name, _ string) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	delete(d.known, name)
	fmt.Println("deregister", name)
}

// nodeInfo dials the driver as the kubelet's CSI client does.
func nodeInfo(endpoint string) (*csi.NodeGetInfoResponse, error) {
	//nolint:staticcheck // deprecated, and what the kubelet calls
	connection, err := grpc.Dial(
		endpoint,
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", target)
		}),
	)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return csi.NewNodeClient(connection).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
}

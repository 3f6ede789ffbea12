package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	connections = 8
	namespaces  = 20
)

func dialer() func(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: 10 * time.Second}).DialContext
}

// each calls do with the numbers below count, on all connections at once; its first error ends everything.
func each(count int, do func(connection, number int) error) error {
	var next atomic.Int64
	failed := make(chan error, connections)
	var all sync.WaitGroup
	for c := range connections {
		all.Add(1)
		go func() {
			defer all.Done()
			for n := int(next.Add(1)) - 1; n < count; n = int(next.Add(1)) - 1 {
				if err := do(c, n); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	all.Wait()
	close(failed)
	return <-failed
}

func namespaceOf(pod int) string { return fmt.Sprintf("load-%02d", pod%namespaces) }

func podName(pod int) string { return fmt.Sprintf("app-%03d-7d4b9c6f5d-%05d", pod%300, pod) }

// runFill makes namespaces, nodes and pods of the size that they have in real clusters: about 3 kB a pod.
func runFill(args []string) error {
	flags, kubeconfig := flagsFor("fill")
	pods := flags.Int("pods", 30000, "how many")
	nodes := flags.Int("nodes", 1000, "how many")
	if err := flags.Parse(args); err != nil {
		return err
	}
	clients, err := connect(*kubeconfig, true, connections)
	if err != nil {
		return err
	}
	ctx := context.Background()
	err = each(namespaces, func(c, n int) error {
		name := namespaceOf(n)
		if _, err := clients[c].CoreV1().Namespaces().Create(ctx, &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}, meta.CreateOptions{}); err != nil {
			return err
		}
		account := &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: "default"}}
		_, err := clients[c].CoreV1().ServiceAccounts(name).Create(ctx, account, meta.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	err = each(*nodes, func(c, n int) error {
		_, err := clients[c].CoreV1().Nodes().Create(ctx, node(n), meta.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	err = each(*pods, func(c, n int) error {
		api := clients[c].CoreV1().Pods(namespaceOf(n))
		made, err := api.Create(ctx, pod(n, *nodes), meta.CreateOptions{})
		if err != nil {
			return err
		}
		made.Status = running(n)
		_, err = api.UpdateStatus(ctx, made, meta.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	say("filled", map[string]any{"pods": *pods, "nodes": *nodes})
	return nil
}

func node(n int) *core.Node {
	name := fmt.Sprintf("node-%04d", n)
	capacity := core.ResourceList{
		"cpu": resource.MustParse("16"), "memory": resource.MustParse("65841184Ki"), "pods": resource.MustParse("110"),
		"ephemeral-storage": resource.MustParse("101430960Ki"), "hugepages-2Mi": resource.MustParse("0"),
	}
	conditions := []core.NodeCondition{}
	for _, each := range []string{"MemoryPressure", "DiskPressure", "PIDPressure", "Ready"} {
		status := core.ConditionFalse
		if each == "Ready" {
			status = core.ConditionTrue
		}
		conditions = append(conditions, core.NodeCondition{
			Type: core.NodeConditionType(each), Status: status, Reason: "KubeletHas", Message: "kubelet has what it needs of that",
			LastHeartbeatTime: meta.Now(), LastTransitionTime: meta.Now(),
		})
	}
	images := []core.ContainerImage{}
	for i := range 20 {
		images = append(images, core.ContainerImage{
			Names:     []string{fmt.Sprintf("registry.example/team/application-%02d@sha256:%064x", i, n*100+i), fmt.Sprintf("registry.example/team/application-%02d:v1.2.3", i)},
			SizeBytes: 123456789,
		})
	}
	return &core.Node{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{
			"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
			"node.kubernetes.io/instance-type": "m5.4xlarge", "topology.kubernetes.io/region": "eu-west-1",
			"topology.kubernetes.io/zone": fmt.Sprintf("eu-west-1%c", 'a'+n%3),
		}},
		Spec: core.NodeSpec{ProviderID: "aws:///eu-west-1a/i-" + fmt.Sprintf("%017x", n)},
		Status: core.NodeStatus{
			Capacity: capacity, Allocatable: capacity, Conditions: conditions, Images: images,
			Addresses: []core.NodeAddress{{Type: core.NodeInternalIP, Address: address(n)}, {Type: core.NodeHostName, Address: name}},
			NodeInfo: core.NodeSystemInfo{
				KubeletVersion: "v1.34.4", OSImage: "Debian GNU/Linux 12 (bookworm)", Architecture: "amd64", OperatingSystem: "linux",
				KernelVersion: "6.1.0-18-amd64", ContainerRuntimeVersion: "containerd://1.7.13", MachineID: fmt.Sprintf("%032x", n),
			},
		},
	}
}

func address(n int) string { return fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255) }

func pod(n, nodes int) *core.Pod {
	app := fmt.Sprintf("app-%03d", n%300)
	yes := true
	env := []core.EnvVar{}
	for i := range 12 {
		env = append(env, core.EnvVar{Name: fmt.Sprintf("SETTING_%02d", i), Value: "a value as long as they usually are"})
	}
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Name:        podName(n),
			Labels:      map[string]string{"app.kubernetes.io/name": app, "app.kubernetes.io/instance": app + "-prod", "pod-template-hash": "7d4b9c6f5d", "tier": "web"},
			Annotations: map[string]string{"prometheus.io/scrape": "true", "checksum/config": fmt.Sprintf("%064x", n)},
			OwnerReferences: []meta.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app + "-7d4b9c6f5d", UID: types.UID(fmt.Sprintf("%032x", n%300)), Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec: core.PodSpec{
			NodeName: fmt.Sprintf("node-%04d", n%nodes),
			Containers: []core.Container{{
				Name: "main", Image: "registry.example/team/" + app + ":v1.2.3", Args: []string{"--verbose", "--listen=:8080"}, Env: env,
				Ports: []core.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "metrics", ContainerPort: 9090}},
				Resources: core.ResourceRequirements{
					Requests: core.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")},
					Limits:   core.ResourceList{"memory": resource.MustParse("256Mi")},
				},
			}},
			Tolerations: []core.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: core.TolerationOpExists, Effect: core.TaintEffectNoExecute}},
		},
	}
}

func running(n int) core.PodStatus {
	conditions := []core.PodCondition{}
	for _, each := range []core.PodConditionType{"Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		conditions = append(conditions, core.PodCondition{Type: each, Status: core.ConditionTrue, LastTransitionTime: meta.Now()})
	}
	yes, now := true, meta.Now()
	return core.PodStatus{
		Phase: core.PodRunning, Conditions: conditions, HostIP: address(n % 1000), PodIP: address(1<<20 + n), StartTime: &now,
		PodIPs: []core.PodIP{{IP: address(1<<20 + n)}},
		ContainerStatuses: []core.ContainerStatus{{
			Name: "main", Ready: true, Started: &yes, RestartCount: int32(n % 3), Image: "registry.example/team/app:v1.2.3",
			ImageID: fmt.Sprintf("registry.example/team/app@sha256:%064x", n), ContainerID: fmt.Sprintf("containerd://%064x", n),
			State: core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: now}},
		}},
	}
}

package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// runWatch keeps pods and nodes in shared informers, says when all are there and what that has cost, and at the end of
// standard input how many changes it was told of since; whenever it has heard of more, it says how many those are.
func runWatch(args []string) error {
	flags, kubeconfig := flagsFor("watch")
	protobuf := flags.Bool("protobuf", false, "ask for protobuf instead of JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	clients, err := connect(*kubeconfig, *protobuf, 1)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	began, cpu := time.Now(), cpuSeconds()
	factory := informers.NewSharedInformerFactory(clients[0], 0)
	pods, nodes := factory.Core().V1().Pods().Informer(), factory.Core().V1().Nodes().Informer()
	var changes atomic.Int64
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, _ any) { changes.Add(1) }}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced, nodes.HasSynced) {
		return errors.New("not synced")
	}
	say("synced", map[string]any{
		"seconds": time.Since(began).Seconds(),
		"cpu":     cpuSeconds() - cpu,
		"pods":    len(pods.GetStore().ListKeys()),
		"nodes":   len(nodes.GetStore().ListKeys()),
	})
	cpu = cpuSeconds()
	go func() {
		for said := int64(0); ; time.Sleep(500 * time.Millisecond) {
			if now := changes.Load(); now != said {
				say("heard", map[string]any{"changes": now})
				said = now
			}
		}
	}()
	untilStdinEnds()
	say("changed", map[string]any{"changes": changes.Load(), "cpu": cpuSeconds() - cpu})
	return nil
}

// Goinformer is what the agent's inventory is measured beside, and with: client-go's shared informers on pods and
// nodes, which is how a controller written in Go sees its cluster; and the load that both see.
//
//	goinformer watch -kubeconfig FILE [-protobuf]        keep all pods and nodes; count changes
//	goinformer fill -kubeconfig FILE -pods N -nodes N    make them
//	goinformer change -etcd URL -rate N -for D           change pods, so many a second
//
// Each prints one JSON object per line, and ends when its standard input does.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

var commands = map[string]func(args []string) error{"watch": runWatch, "fill": runFill, "change": runChange}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: goinformer watch|fill|change [flags]")
		os.Exit(2)
	}
	if os.Args[1] == "fill" || os.Args[1] == "change" {
		go func() {
			untilStdinEnds()
			os.Exit(1)
		}()
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "goinformer %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func untilStdinEnds() {
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// say prints an event.
func say(event string, values map[string]any) {
	values["event"] = event
	line, err := json.Marshal(values)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

// connect returns as many clients as are asked for, each with a connection of its own, without client-go's limit on requests.
func connect(kubeconfig string, protobuf bool, count int) ([]kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	if protobuf {
		config.ContentType = "application/vnd.kubernetes.protobuf"
	}
	clients := make([]kubernetes.Interface, count)
	for i := range clients {
		// A config of its own: those that are equal share a connection.
		own := rest.CopyConfig(config)
		own.Dial = dialer()
		if clients[i], err = kubernetes.NewForConfig(own); err != nil {
			return nil, err
		}
	}
	return clients, nil
}

// cpuSeconds is the processor time of this process until now.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func flagsFor(name string) (*flag.FlagSet, *string) {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	return flags, flags.String("kubeconfig", "", "where the API server is")
}

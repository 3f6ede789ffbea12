// Gohub is a peer for /ws on gorilla/websocket: a client for tests, many readers for measurements, and the hub that
// ours is measured beside.
//
// Every program runs until its standard input ends, takes orders there and reports what happens on standard output,
// one JSON object per line each.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

var programs = map[string]func(args []string) error{
	"client":  runClient,
	"readers": runReaders,
	"hub":     runHub,
}

func main() {
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: gohub client|readers|hub [flags]; -h after the name shows its flags")
		os.Exit(2)
	}
	if err := programs[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "gohub %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

var printing sync.Mutex

// say writes one event.
func say(event string, facts map[string]any) {
	line := map[string]any{"event": event}
	for name, value := range facts {
		line[name] = value
	}
	printing.Lock()
	defer printing.Unlock()
	// A reader that has gone away shows as the end of standard input as well.
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

// order is one line of standard input; what an order does not need stays empty.
type order struct {
	Do       string            `json:"do"`
	Headers  map[string]string `json:"headers"`
	Message  json.RawMessage   `json:"message"`
	Messages int               `json:"messages"`
	Rate     float64           `json:"rate"`
	Seconds  float64           `json:"seconds"`
	Stuck    int               `json:"stuck"`
}

// orders calls obey for each order until the input ends.
func orders(obey func(order)) error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 4096), 1<<20)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		obey(o)
	}
	return lines.Err()
}

// cpu returns the processor time that this process has used, in seconds.
func cpu() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

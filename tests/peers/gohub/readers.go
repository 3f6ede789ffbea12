package main

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

var stamp = []byte(`"t":`)

// reader is one of many clients: it counts what has a time stamp, and how long that took to come.
type reader struct {
	count     atomic.Int64
	last      atomic.Int64
	mu        sync.Mutex
	latencies []time.Duration
}

// runReaders connects many clients, of which some never read. Orders: report, for what has come since the last one,
// once each has got so many messages.
func runReaders(args []string) error {
	flags := flag.NewFlagSet("readers", flag.ExitOnError)
	url := flags.String("url", "", "where to connect to")
	token := flags.String("token", "", "shown as a bearer token")
	clients := flags.Int("clients", 100, "clients that read")
	stuck := flags.Int("stuck", 0, "clients that never read")
	subscribe := flags.String("subscribe", "", "the first message of each client")
	if err := flags.Parse(args); err != nil {
		return err
	}
	header := http.Header{}
	if *token != "" {
		header.Set("Authorization", "Bearer "+*token)
	}
	readers := make([]*reader, *clients)
	for number := range *clients + *stuck {
		connection, response, err := websocket.DefaultDialer.Dial(*url, header)
		if err != nil {
			return fmt.Errorf("client %d: %w (status %d)", number, err, status(response))
		}
		if *subscribe != "" {
			if err := connection.WriteMessage(websocket.TextMessage, []byte(*subscribe)); err != nil {
				return err
			}
		}
		if number < *clients {
			readers[number] = &reader{}
			go readers[number].read(connection)
		}
	}
	say("ready", nil)
	return orders(func(o order) {
		for _, each := range readers {
			for deadline := time.Now().Add(60 * time.Second); each.count.Load() < int64(o.Messages); {
				if time.Now().After(deadline) {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
		say("report", summary(readers))
	})
}

func (r *reader) read(connection *websocket.Conn) {
	for {
		_, message, err := connection.ReadMessage()
		if err != nil {
			say("lost", map[string]any{"error": err.Error()})
			return
		}
		found := bytes.Index(message, stamp)
		if found < 0 {
			continue
		}
		now := time.Now().UnixNano()
		rest := message[found+len(stamp):]
		end := 0
		for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
			end++
		}
		sent, err := strconv.ParseInt(string(rest[:end]), 10, 64)
		if err != nil {
			continue
		}
		r.mu.Lock()
		r.latencies = append(r.latencies, time.Duration(now-sent))
		r.mu.Unlock()
		r.last.Store(now)
		r.count.Add(1)
	}
}

// summary takes what has come since the last one.
func summary(readers []*reader) map[string]any {
	var all []time.Duration
	var total, least, last int64
	least = -1
	for _, each := range readers {
		each.mu.Lock()
		all = append(all, each.latencies...)
		each.latencies = nil
		each.mu.Unlock()
		count := each.count.Swap(0)
		total += count
		if least < 0 || count < least {
			least = count
		}
		last = max(last, each.last.Load())
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	at := func(share float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return all[min(len(all)-1, int(share*float64(len(all))))].Seconds()
	}
	return map[string]any{
		"deliveries": total, "least": least, "last": last,
		"p50": at(0.5), "p99": at(0.99), "most": at(1),
	}
}

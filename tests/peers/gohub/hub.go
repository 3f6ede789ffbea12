package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// waiting is how many messages may wait for one client: as in gorilla's own example of a hub.
const waiting = 256

// patience is how long the hub waits for a client that has as many; from then on it is slow, and loses what it does
// not take at once.
const patience = time.Second

type member struct {
	connection *websocket.Conn
	send       chan *websocket.PreparedMessage
	slow       bool
}

// hub is the usual one: a goroutine and a channel for each client, one message prepared for all.
type hub struct {
	mu      sync.Mutex
	members map[*member]bool
	size    int
}

// runHub serves a hub on a free port. Orders: burst, so many messages as fast as they are taken; steady, at a rate,
// for so many seconds. It reports each with when it began and the processor time that it took.
func runHub(args []string) error {
	flags := flag.NewFlagSet("hub", flag.ExitOnError)
	size := flags.Int("size", 200, "bytes of a message")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h := &hub{members: map[*member]bool{}, size: *size}
	go func() { _ = http.Serve(listener, h) }()
	say("listening", map[string]any{"port": listener.Addr().(*net.TCPAddr).Port})
	return orders(func(o order) {
		began, before := time.Now(), cpu()
		switch o.Do {
		case "burst":
			for range o.Messages {
				h.broadcast()
			}
		case "steady":
			sent := 0
			for time.Since(began).Seconds() < o.Seconds {
				for due := int(time.Since(began).Seconds() * o.Rate); sent < due; sent++ {
					h.broadcast()
				}
				time.Sleep(500 * time.Microsecond)
			}
			o.Messages = sent
		case "cpu":
		}
		h.settle()
		say("done", map[string]any{"do": o.Do, "began": began.UnixNano(), "messages": o.Messages, "cpu": cpu() - before})
	})
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024}
	connection, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	m := &member{connection: connection, send: make(chan *websocket.PreparedMessage, waiting)}
	h.mu.Lock()
	h.members[m] = true
	h.mu.Unlock()
	go func() {
		for message := range m.send {
			if connection.WritePreparedMessage(message) != nil {
				return
			}
		}
	}()
	for {
		if _, _, err := connection.ReadMessage(); err != nil {
			return
		}
	}
}

func (h *hub) broadcast() {
	head := fmt.Sprintf(`{"type":"event","t":%d,"pad":"`, time.Now().UnixNano())
	text := head + strings.Repeat("x", max(0, h.size-len(head)-2)) + `"}`
	message, err := websocket.NewPreparedMessage(websocket.TextMessage, []byte(text))
	if err != nil {
		panic(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for m := range h.members {
		select {
		case m.send <- message:
			m.slow = false
			continue
		default:
		}
		if m.slow {
			continue
		}
		select {
		case m.send <- message:
		case <-time.After(patience):
			m.slow = true
		}
	}
}

// settle waits until all have been sent everything, but for those that take nothing.
func (h *hub) settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for m := range h.members {
		left, since := len(m.send), time.Now()
		for left > 0 && time.Since(since) < patience {
			time.Sleep(time.Millisecond)
			if now := len(m.send); now != left {
				left, since = now, time.Now()
			}
		}
	}
}

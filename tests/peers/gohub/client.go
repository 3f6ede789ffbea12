package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// runClient is one client. Orders: open, with the headers, first; then send, with a message, and close. It reports
// open, with the extensions agreed; message, with its type; closed, with code and reason; or refused, with status.
func runClient(args []string) error {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	url := flags.String("url", "", "where to connect to: ws://host:port/path")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var connection *websocket.Conn
	var writing sync.Mutex
	return orders(func(o order) {
		switch o.Do {
		case "open":
			header := http.Header{}
			for name, value := range o.Headers {
				header.Set(name, value)
			}
			dialer := websocket.Dialer{EnableCompression: true, HandshakeTimeout: 10 * time.Second}
			made, response, err := dialer.Dial(*url, header)
			if err != nil {
				say("refused", map[string]any{"status": status(response), "error": err.Error()})
				return
			}
			connection = made
			say("open", map[string]any{"extensions": response.Header.Get("Sec-Websocket-Extensions")})
			go report(made)
		case "send":
			writing.Lock()
			defer writing.Unlock()
			if err := connection.WriteMessage(websocket.TextMessage, o.Message); err != nil {
				say("error", map[string]any{"error": err.Error()})
			}
		case "close":
			goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
			_ = connection.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(time.Second))
		}
	})
}

func report(connection *websocket.Conn) {
	for {
		_, text, err := connection.ReadMessage()
		if err != nil {
			var end *websocket.CloseError
			if errors.As(err, &end) {
				say("closed", map[string]any{"code": end.Code, "reason": end.Text})
			} else {
				say("closed", map[string]any{"code": nil, "reason": err.Error()})
			}
			return
		}
		var message struct{ Type string }
		if err := json.Unmarshal(text, &message); err != nil {
			say("error", map[string]any{"error": fmt.Sprint(err)})
		}
		say("message", map[string]any{"type": message.Type, "message": json.RawMessage(text)})
	}
}

func status(response *http.Response) int {
	if response == nil {
		return 0
	}
	return response.StatusCode
}

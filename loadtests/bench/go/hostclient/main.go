// fasthttp's HostClient as a load generator, the same task as bench/clients.py:
// hostclient PORT CONNS TASKS SECONDS BODY_SIZE EXPECTED_SIZE
package main

import (
	"bytes"
	"encoding/json"
	"log"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

func number(at int) int {
	value, err := strconv.Atoi(os.Args[at])
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func cpu() float64 {
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

// The largest resident memory, in bytes. Not Rusage.Maxrss: that begins with what the starting process had resident.
func largest() int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		log.Fatal(err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmHWM:" {
			kib, _ := strconv.Atoi(fields[1])
			return kib * 1024
		}
	}
	return 0
}

func main() {
	conns, tasks, bodySize, expected := number(2), number(3), number(5), number(6)
	seconds, err := strconv.ParseFloat(os.Args[4], 64)
	if err != nil {
		log.Fatal(err)
	}
	client := &fasthttp.HostClient{
		Addr: "127.0.0.1:" + os.Args[1], MaxConns: conns, MaxConnWaitTimeout: time.Minute,
	}
	body := bytes.Repeat([]byte("x"), bodySize)
	latencies := make([][]float64, tasks)
	var group sync.WaitGroup
	var once sync.Once
	var first int64
	begun, usedBefore := time.Now(), cpu()
	end := begun.Add(time.Duration(seconds * float64(time.Second)))
	for i := 0; i < tasks; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			request.SetRequestURI("http://127.0.0.1:" + os.Args[1] + "/")
			if bodySize > 0 {
				request.Header.SetMethod("POST")
				request.SetBody(body)
			}
			for began := time.Now(); began.Before(end); {
				err := client.Do(request, response)
				if err != nil || response.StatusCode() != 200 || len(response.Body()) != expected {
					log.Fatal("wrong answer: ", response.StatusCode(), " ", len(response.Body()), " ", err)
				}
				now := time.Now()
				latencies[i] = append(latencies[i], now.Sub(began).Seconds())
				began = now
				once.Do(func() { first = now.UnixNano() })
			}
		}(i)
	}
	group.Wait()
	took, used := time.Since(begun).Seconds(), cpu()-usedBefore
	var all []float64
	for _, some := range latencies {
		all = append(all, some...)
	}
	sort.Float64s(all)
	at := func(share float64) float64 {
		index := int(share * float64(len(all)))
		if index >= len(all) {
			index = len(all) - 1
		}
		return all[index] * 1e3
	}
	json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"requests": len(all), "seconds": took, "cpu": used, "first": float64(first) / 1e9,
		"memory": largest(), "p50": at(0.5), "p99": at(0.99), "p999": at(0.999),
	})
}

"""What a worker of granian runs."""

import ctypes
import os
import signal

from django.core.wsgi import get_wsgi_application

# A worker ends with its master, however that ends.
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(os.environ["BENCH_MASTER"]):
    os._exit(1)

os.environ["DJANGO_SETTINGS_MODULE"] = "opsflow.settings"
application = get_wsgi_application()

locals {
  alarm_actions = var.app.alarm_topic_arn == null ? [] : [var.app.alarm_topic_arn]
  balancer      = { LoadBalancer = aws_lb.this.arn_suffix }
}

resource "aws_cloudwatch_metric_alarm" "failures" {
  alarm_name          = "${local.name}-5xx"
  alarm_description   = "More than 1 in 100 answers is a 5xx, for five minutes."
  evaluation_periods  = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions

  metric_query {
    id          = "share"
    expression  = "100 * (FILL(failures, 0) + FILL(own, 0)) / requests"
    label       = "5xx, percent"
    return_data = true
  }
  metric_query {
    id = "failures"
    metric {
      namespace   = "AWS/ApplicationELB"
      metric_name = "HTTPCode_Target_5XX_Count"
      dimensions  = local.balancer
      stat        = "Sum"
      period      = 60
    }
  }
  # Those of the balancer itself: no server answered.
  metric_query {
    id = "own"
    metric {
      namespace   = "AWS/ApplicationELB"
      metric_name = "HTTPCode_ELB_5XX_Count"
      dimensions  = local.balancer
      stat        = "Sum"
      period      = 60
    }
  }
  metric_query {
    id = "requests"
    metric {
      namespace   = "AWS/ApplicationELB"
      metric_name = "RequestCount"
      dimensions  = local.balancer
      stat        = "Sum"
      period      = 60
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "servers" {
  alarm_name          = "${local.name}-servers"
  alarm_description   = "Fewer than two servers are ready."
  namespace           = "AWS/ApplicationELB"
  metric_name         = "HealthyHostCount"
  dimensions          = merge(local.balancer, { TargetGroup = aws_lb_target_group.server.arn_suffix })
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 3
  comparison_operator = "LessThanThreshold"
  threshold           = 2
  treat_missing_data  = "breaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}
